# The nine workers and licet in one image. docker-compose.yml selects the program of each container.

FROM rust:1.95-slim-bookworm AS build
# SQLite, ring and jemalloc contain C code.
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# Use `install`, not `build`, because the cached target folder may contain programs of older builds.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo install --locked --profile dist --features jemalloc --path workers --root /out \
 && cargo install --locked --profile dist --features jemalloc --path cli --root /out

FROM debian:bookworm-slim
# The CA certificates are for amqps:// and for PostgreSQL over TLS.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/licet licet \
 && install -d -o licet -g licet -m 0700 /var/lib/licet /var/lib/licet/keys
COPY --from=build /out/bin/ /usr/local/bin/
# A numeric user id lets an orchestrator verify that the user is not root.
USER 10001:10001
WORKDIR /var/lib/licet
CMD ["licet", "--help"]
