//! The state of a broker, and how it differs from what Licet needs. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use licet_schema::topology::{self, Argument, Binding, Topology};
use regex_lite::Regex;
use serde::Deserialize;
use serde_json::Value;

/// The oldest version of RabbitMQ with which quorum queues have message TTLs and dead-letter at
/// least once.
const VERSION_MIN: (u32, u32) = (3, 10);

/// The state of a broker, as its management API reports it.
#[derive(Clone, Debug)]
pub struct BrokerState {
    pub(super) version: String,
    pub(super) nodes: Vec<Node>,
    pub(super) exchanges: Vec<Exchange>,
    pub(super) queues: Vec<Queue>,
    pub(super) bindings: Vec<Bound>,
    /// The user of the AMQP connections.
    pub(super) user: String,
    /// The permissions of this user. `None` if they could not be read.
    pub(super) permission: Option<Permission>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Overview {
    pub(super) rabbitmq_version: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Node {
    name: String,
    #[serde(default)]
    running: bool,
    #[serde(default)]
    mem_alarm: bool,
    #[serde(default)]
    disk_free_alarm: bool,
    #[serde(default)]
    partitions: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Exchange {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    durable: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Queue {
    name: String,
    arguments: BTreeMap<String, Value>,
    /// The settings of the policy that applies, and its name.
    #[serde(default)]
    effective_policy_definition: Option<Value>,
    #[serde(default)]
    policy: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Bound {
    source: String,
    destination: String,
    destination_type: String,
    routing_key: String,
}

/// The permissions of a user in a virtual host, as regular expressions for names.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Permission {
    write: String,
    read: String,
}

impl Permission {
    /// The permissions of a user who may do nothing.
    pub(super) fn none() -> Self {
        Self { write: "^$".into(), read: "^$".into() }
    }
}

impl BrokerState {
    /// Everything that is wrong for this topology, one sentence each.
    pub fn problems(&self, topology: &Topology) -> Vec<String> {
        let mut problems = self.node_problems();
        problems.extend(self.exchange_problems(topology));
        problems.extend(self.queue_problems(topology));
        problems.extend(self.binding_problems(topology));
        problems.extend(self.permission_problems(topology));
        problems
    }

    /// What could not be checked, and why.
    pub fn unchecked(&self) -> Option<String> {
        self.permission.is_none().then(|| {
            format!(
                "the permissions of the broker user {} were not checked: for this, the user of the management API needs \
                 the tag administrator",
                self.user
            )
        })
    }

    fn node_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut numbers = self.version.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
        if (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default()) < VERSION_MIN {
            problems.push(format!(
                "the broker is RabbitMQ {}, but Licet needs {}.{} or later: upgrade the broker",
                self.version, VERSION_MIN.0, VERSION_MIN.1
            ));
        }
        for node in &self.nodes {
            let name = &node.name;
            if !node.running {
                problems.push(format!("the broker node {name} does not run: start it"));
            }
            if node.mem_alarm {
                problems.push(format!(
                    "the broker node {name} has a memory alarm, so nothing can be published: give it more memory, or \
                     find the queues that grow"
                ));
            }
            if node.disk_free_alarm {
                problems.push(format!(
                    "the broker node {name} has a disk alarm, so nothing can be published: free disk space"
                ));
            }
            if !node.partitions.is_empty() {
                problems.push(format!(
                    "the broker node {name} is separated from {}: repair the network of the cluster",
                    node.partitions.join(", ")
                ));
            }
        }
        problems
    }

    fn exchange_problems(&self, topology: &Topology) -> Vec<String> {
        let mut problems = Vec::new();
        for expected in &topology.exchanges {
            let name = &expected.name;
            let Some(found) = self.exchanges.iter().find(|one| one.name == *name) else {
                problems.push(format!("missing: exchange {name}"));
                continue;
            };
            if found.kind != expected.kind.as_str() || !found.durable {
                let durable = if found.durable { "" } else { ", not durable" };
                problems.push(format!(
                    "the exchange {name} has the type {}{durable} instead of {}: delete it, and run `licet topology \
                     apply`",
                    found.kind,
                    expected.kind.as_str()
                ));
            }
        }
        problems
    }

    fn queue_problems(&self, topology: &Topology) -> Vec<String> {
        let mut problems = Vec::new();
        for expected in &topology.queues {
            let name = &expected.name;
            let Some(found) = self.queues.iter().find(|one| one.name == *name) else {
                problems.push(format!("missing: queue {name}"));
                continue;
            };
            let expected: BTreeMap<_, _> =
                expected.arguments.iter().map(|(key, value)| ((*key).to_owned(), json(value))).collect();
            let keys: BTreeSet<_> = expected.keys().chain(found.arguments.keys()).collect();
            let differences: Vec<_> = keys
                .into_iter()
                .filter(|key| expected.get(*key) != found.arguments.get(*key))
                .map(|key| {
                    let text = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
                    format!("{key} is {} instead of {}", text(found.arguments.get(key)), text(expected.get(key)))
                })
                .collect();
            if !differences.is_empty() {
                problems.push(format!(
                    "the queue {name} has other arguments: {}. Move its messages to another queue, delete it, and run \
                     `licet topology apply`",
                    differences.join(", ")
                ));
            }
            problems.extend(policy_problem(found));
        }
        problems
    }

    fn binding_problems(&self, topology: &Topology) -> Vec<String> {
        let listed: BTreeSet<_> = self
            .bindings
            .iter()
            .filter(|bound| bound.destination_type == "queue")
            .map(|bound| Binding {
                exchange: bound.source.clone(),
                queue: bound.destination.clone(),
                key: bound.routing_key.clone(),
            })
            .collect();
        let expected: BTreeSet<_> = topology.bindings.iter().cloned().collect();
        // RabbitMQ itself binds every queue to the default exchange.
        let is_superfluous = |binding: &&Binding| {
            binding.exchange != topology::DEFAULT && topology.queues.iter().any(|queue| queue.name == binding.queue)
        };
        let missing = expected.difference(&listed).map(|binding| format!("missing: {binding}"));
        let superfluous = listed.difference(&expected).filter(is_superfluous).map(|binding| {
            format!("superfluous: {binding}, which brings messages to a queue that must not receive them: remove it")
        });
        missing.chain(superfluous).collect()
    }

    fn permission_problems(&self, topology: &Topology) -> Vec<String> {
        let Some(permission) = &self.permission else { return Vec::new() };
        // Replies, dead letters and instructions go through the default exchange.
        let exchanges = topology.exchanges.iter().map(|exchange| exchange.name.as_str()).chain(["amq.default"]);
        let queues = topology.queues.iter().map(|queue| queue.name.as_str());
        let checks = [
            ("write", &permission.write, exchanges.collect::<Vec<_>>()),
            ("read", &permission.read, queues.collect::<Vec<_>>()),
        ];
        let mut problems = Vec::new();
        for (action, pattern, names) in checks {
            // RabbitMQ refuses a pattern that is not valid. This library supports fewer patterns.
            let Ok(pattern) = Regex::new(pattern) else { continue };
            let refused: Vec<_> = names.into_iter().filter(|name| !pattern.is_match(name)).collect();
            if !refused.is_empty() {
                problems.push(format!(
                    "the broker user {} may not {action} {}: run `rabbitmqctl set_permissions` with a pattern that \
                     includes them",
                    self.user,
                    refused.join(", ")
                ));
            }
        }
        problems
    }
}

/// A policy may limit the length of a queue that refuses further messages. Anything else could
/// remove messages.
fn policy_problem(queue: &Queue) -> Option<String> {
    let definition = queue.effective_policy_definition.as_ref()?.as_object()?;
    let is_harmful = |key: &String, value: &Value| match key.as_str() {
        "message-ttl" | "expires" | "dead-letter-exchange" | "dead-letter-routing-key" | "dead-letter-strategy" => true,
        "delivery-limit" => true,
        "overflow" => value != "reject-publish",
        _ => false,
    };
    // An argument of a queue takes precedence over a policy, except for limits.
    let is_overridden = |key: &String| {
        !matches!(key.as_str(), "message-ttl" | "expires" | "delivery-limit")
            && queue.arguments.contains_key(&format!("x-{key}"))
    };
    let harmful: Vec<_> = definition
        .iter()
        .filter(|(key, value)| is_harmful(key, value) && !is_overridden(key))
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let policy = queue.policy.as_deref().unwrap_or("of an operator");
    (!harmful.is_empty()).then(|| {
        format!(
            "the policy {policy} sets {} for the queue {}, so messages can be lost: remove these settings from the \
             policy",
            harmful.join(", "),
            queue.name
        )
    })
}

fn json(value: &Argument) -> Value {
    match value {
        Argument::Text(text) => text.as_str().into(),
        Argument::Number(number) => (*number).into(),
    }
}

#[cfg(test)]
mod tests {
    use licet_workers::registry;
    use serde_json::json;

    use super::*;

    /// The state of a broker to which this topology was applied.
    fn healthy(topology: &Topology) -> BrokerState {
        let node = json!({"name": "rabbit@one", "running": true, "mem_alarm": false, "disk_free_alarm": false});
        let queue = |queue: &licet_schema::topology::Queue| {
            let arguments: BTreeMap<_, _> =
                queue.arguments.iter().map(|(key, value)| (*key, super::json(value))).collect();
            json!({"name": queue.name, "arguments": arguments})
        };
        let exchange = |exchange: &licet_schema::topology::Exchange| json!({"name": exchange.name, "type": exchange.kind.as_str(), "durable": true});
        let binding = |binding: &Binding| {
            json!({"source": binding.exchange, "destination": binding.queue, "destination_type": "queue",
                   "routing_key": binding.key})
        };
        let read = |values: Vec<Value>| Value::Array(values);
        BrokerState {
            version: "3.10.8".into(),
            nodes: serde_json::from_value(read(vec![node])).expect("nodes"),
            exchanges: serde_json::from_value(read(topology.exchanges.iter().map(exchange).collect()))
                .expect("exchanges"),
            queues: serde_json::from_value(read(topology.queues.iter().map(queue).collect())).expect("queues"),
            bindings: serde_json::from_value(read(topology.bindings.iter().map(binding).collect())).expect("bindings"),
            user: "licet".into(),
            permission: Some(Permission { write: ".*".into(), read: "^licet\\..*$".into() }),
        }
    }

    /// The only problem after this damage.
    fn problem(damage: impl FnOnce(&mut BrokerState)) -> String {
        let topology = registry::topology();
        let mut state = healthy(&topology);
        damage(&mut state);
        let mut problems = state.problems(&topology);
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.remove(0)
    }

    #[test]
    fn a_healthy_broker_has_no_problem() {
        let topology = registry::topology();
        let mut state = healthy(&topology);
        assert_eq!(state.problems(&topology), [""; 0]);
        let own = json!({"source": "", "destination": "licet.query", "destination_type": "queue", "routing_key": "licet.query"});
        let foreign = json!({"source": "licet.events", "destination": "loyalty", "destination_type": "queue", "routing_key": "#"});
        state.bindings.extend([own, foreign].map(|binding| serde_json::from_value(binding).expect("a binding")));
        let limits = json!({"max-length": 9, "max-length-bytes": 9, "overflow": "reject-publish"});
        state.queues[0].effective_policy_definition = Some(limits);
        assert_eq!(state.problems(&topology), [""; 0], "the default bindings, those of others, and limits");
    }

    #[test]
    fn permissions_that_could_not_be_read_are_said_to_be_unchecked() {
        let topology = registry::topology();
        let mut state = healthy(&topology);
        assert_eq!(state.unchecked(), None);
        state.permission = None;
        assert_eq!(state.problems(&topology), [""; 0]);
        assert!(state.unchecked().is_some_and(|said| said.contains("the broker user licet were not checked")));
    }

    #[test]
    fn each_damage_of_a_broker_is_described_in_one_sentence() {
        let queue = |state: &mut BrokerState, name: &str| {
            state.queues.iter().position(|one| one.name == name).expect("it exists")
        };
        assert!(problem(|state| state.version = "3.9.29".into()).contains("RabbitMQ 3.9.29"));
        assert!(problem(|state| state.nodes[0].mem_alarm = true).contains("memory alarm"));
        assert!(problem(|state| state.nodes[0].disk_free_alarm = true).contains("disk alarm"));
        assert!(problem(|state| state.nodes[0].running = false).contains("does not run"));
        assert!(problem(|state| state.nodes[0].partitions = vec!["b".into()]).contains("separated from b"));
        assert!(problem(|state| drop(state.exchanges.remove(1))).starts_with("missing: exchange licet.events"));
        assert!(problem(|state| state.exchanges[0].kind = "direct".into()).contains("direct instead of topic"));
        assert!(problem(|state| state.exchanges[0].durable = false).contains("not durable"));
        assert!(problem(|state| drop(state.queues.remove(0))).starts_with("missing: queue licet.instructed"));
        let other = problem(|state| {
            let index = queue(state, "licet.query");
            state.queues[index].arguments.insert("x-delivery-limit".into(), 20.into());
            state.queues[index].arguments.insert("x-max-length".into(), 5.into());
        });
        assert!(other.contains("licet.query") && other.contains("x-delivery-limit is 20 instead of 200"), "{other}");
        assert!(other.contains("x-max-length is 5 instead of nothing"), "{other}");
        for policy in [json!({"message-ttl": 1000}), json!({"expires": 1}), json!({"delivery-limit": 5})] {
            let lost = problem(|state| state.queues[0].effective_policy_definition = Some(policy.clone()));
            assert!(lost.contains("messages can be lost"), "{lost}");
        }
        assert!(problem(|state| drop(state.bindings.remove(0))).starts_with("missing: binding of "));
        let obsolete = registry::topology().obsolete[0].clone();
        let twice = problem(|state| {
            state.bindings.push(Bound {
                source: obsolete.exchange.clone(),
                destination: obsolete.queue.clone(),
                destination_type: "queue".into(),
                routing_key: obsolete.key.clone(),
            });
        });
        assert!(twice.starts_with("superfluous: binding of licet.instructed to licet.events"), "{twice}");
        let permission = |write: &str, read: &str| Some(Permission { write: write.into(), read: read.into() });
        let refused = problem(|state| state.permission = permission("^licet\\.", ".*"));
        assert!(refused.contains("licet may not write amq.default"), "{refused}");
        assert!(
            problem(|state| state.permission = permission(".*", "^licet\\.q"))
                .contains("may not read licet.instructed")
        );
    }
}
