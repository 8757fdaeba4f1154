//! Finds purchases by an id, by the end of an id, or by the name of a user.
//!
//! Ids are UUIDv7, so ids that were created in the same minute begin with the same eight
//! characters. A short id is therefore the end of an id, which is random.

use licet_common::store::{Lock, StoreError, keys, select};
use licet_schema::{
    Name,
    entity::{certificate_record, collection, license, license_return},
};
use sea_orm::{ConnectionTrait, DatabaseBackend, Statement};
use uuid::Uuid;

use super::HistoryError;

/// The length of a short id: the last characters of an id.
pub const SHORT_ID_LENGTH: usize = 8;

/// The columns that contain ids of certificates, containers, licenses and returns, each with the
/// column that names the certificate of the row.
const ID_COLUMNS: [(&str, &str, &str); 6] = [
    ("certificate_record", "id", "id"),
    ("certificate_record", "container", "id"),
    ("license", "id", "certificate"),
    ("license_return", "id", "certificate"),
    ("license_return", "license", "certificate"),
    ("collection", "license", "certificate"),
];

/// The short form of an id.
pub fn short_id(id: Uuid) -> String {
    let id = id.to_string();
    id[id.len() - SHORT_ID_LENGTH..].to_owned()
}

/// The ids of the purchases that `id` identifies, in ascending order.
pub(super) async fn purchases(connection: &impl ConnectionTrait, id: &str) -> Result<Vec<Uuid>, HistoryError> {
    let mut certificates = match Uuid::parse_str(id) {
        Ok(id) => certificates_of(connection, id).await?,
        Err(_) => Vec::new(),
    };
    // A user's name can look like an id.
    let mut purchases = match Name::try_from(id) {
        Ok(user) => purchases_of(connection, certificate_record::Column::User, keys([user])).await?,
        Err(_) => Vec::new(),
    };
    let end = end_of_id(id);
    let is_end = certificates.is_empty() && purchases.is_empty();
    if let Some(end) = end.as_ref().filter(|_| is_end) {
        certificates = certificates_ending_with(connection, end).await?;
    }
    purchases.extend(purchases_of(connection, certificate_record::Column::Id, keys(certificates)).await?);
    purchases.sort_unstable();
    purchases.dedup();
    if is_end && purchases.len() > 1 {
        return Err(HistoryError::Ambiguous { end: id.to_owned(), count: purchases.len() });
    }
    Ok(purchases)
}

/// The ids of the purchases to which the certificate, container, license or return with this id
/// belongs.
pub(crate) async fn purchases_with(connection: &impl ConnectionTrait, id: Uuid) -> Result<Vec<Uuid>, StoreError> {
    let certificates = certificates_of(connection, id).await?;
    let mut purchases = purchases_of(connection, certificate_record::Column::Id, keys(certificates)).await?;
    purchases.sort_unstable();
    purchases.dedup();
    Ok(purchases)
}

/// The certificates to which the container, license or return with this id belongs. An unknown id
/// is included too, because it may be the id of a certificate.
async fn certificates_of(connection: &impl ConnectionTrait, id: Uuid) -> Result<Vec<Uuid>, StoreError> {
    use {certificate_record::Entity as Records, collection::Entity as Collections};
    use {license::Entity as Licenses, license_return::Entity as Returns};
    let key = || keys([id]);
    let mut certificates = vec![id];
    let members = select::<Records>(connection, &[certificate_record::Column::Container], key(), Lock::None).await?;
    certificates.extend(members.iter().map(|row| row.id));
    let licenses = select::<Licenses>(connection, &[license::Column::Id], key(), Lock::None).await?;
    certificates.extend(licenses.iter().map(|row| row.certificate));
    let returns = select::<Returns>(connection, &[license_return::Column::License], key(), Lock::None).await?;
    certificates.extend(returns.iter().map(|row| row.certificate));
    let returns = select::<Returns>(connection, &[license_return::Column::Id], key(), Lock::None).await?;
    certificates.extend(returns.iter().map(|row| row.certificate));
    let collected = select::<Collections>(connection, &[collection::Column::Id], key(), Lock::None).await?;
    certificates.extend(collected.iter().map(|row| row.certificate));
    Ok(certificates)
}

async fn purchases_of(
    connection: &impl ConnectionTrait,
    column: certificate_record::Column,
    keys: Vec<Vec<sea_orm::Value>>,
) -> Result<Vec<Uuid>, StoreError> {
    let records = select::<certificate_record::Entity>(connection, &[column], keys, Lock::None).await?;
    Ok(records.iter().map(|row| row.container.unwrap_or(row.id)).collect())
}

/// The hexadecimal digits of a text, if it can be the end of an id.
fn end_of_id(text: &str) -> Option<String> {
    let digits = text.replace('-', "").to_ascii_lowercase();
    let fits = (SHORT_ID_LENGTH..=32).contains(&digits.len());
    (fits && digits.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(digits)
}

/// The certificates to which objects belong whose ids end with these digits. No index supports this
/// query, so it reads whole tables.
async fn certificates_ending_with(connection: &impl ConnectionTrait, end: &str) -> Result<Vec<Uuid>, StoreError> {
    let backend = connection.get_database_backend();
    let mut certificates = Vec::new();
    for (table, column, certificate) in ID_COLUMNS {
        let digits = match backend {
            DatabaseBackend::Postgres => format!("REPLACE(CAST({column} AS TEXT), '-', '') LIKE '%' || $1"),
            // SQLite stores a UUID as 16 bytes.
            _ => format!("LOWER(HEX({column})) LIKE '%' || ?"),
        };
        let sql = format!("SELECT {certificate} FROM {table} WHERE {digits}");
        let statement = Statement::from_sql_and_values(backend, sql, [end.into()]);
        for row in connection.query_all(statement).await? {
            certificates.push(row.try_get_by_index(0)?);
        }
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_id_is_the_end_of_an_id_and_is_recognized_as_one() {
        let id = Uuid::from_u128(0x0198_0a5d_ac96_774b_bcce_b302_099a_8057);
        assert_eq!(short_id(id), "099a8057");
        assert_eq!(end_of_id(&short_id(id)).as_deref(), Some("099a8057"));
        assert_eq!(end_of_id("BCCE-B302099A8057").as_deref(), Some("bcceb302099a8057"));
    }

    #[test]
    fn a_name_or_too_few_digits_are_not_the_end_of_an_id() {
        for text in ["ada", "099a805", "customer", "", "%99a8057", &"a".repeat(33)] {
            assert_eq!(end_of_id(text), None, "{text:?}");
        }
    }
}
