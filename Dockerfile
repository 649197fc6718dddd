# syntax=docker/dockerfile:1
# Millrace as a container: `docker build .`. The program alone, without a shell, as a user without rights.

FROM rust:1.95-slim-bookworm AS build
# librdkafka and OpenSSL are built from their sources.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make perl \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The caches live with the builder, not in the image: an edit rebuilds this package, not its dependencies.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --features kafka-tls \
    && cp target/release/millrace /usr/local/bin/millrace

# glibc, certificates and time zones, and nothing to run but what is copied in.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /usr/local/bin/millrace /usr/local/bin/millrace
COPY LICENSE /usr/share/doc/millrace/LICENSE
# Where the project's YAML is mounted.
WORKDIR /project
ENV MILLRACE_PROJECT=/project \
    MILLRACE_LISTEN=0.0.0.0:8080 \
    MILLRACE_METRICS=0.0.0.0:9464 \
    MILLRACE_LOG_FORMAT=json
EXPOSE 8080 9464
USER nonroot
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/usr/local/bin/millrace", "health", "--metrics", "127.0.0.1:9464"]
ENTRYPOINT ["/usr/local/bin/millrace"]
CMD ["up"]
