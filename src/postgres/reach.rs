//! Whether Postgres answers, said plainly.

use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};

/// Why Postgres cannot be used. The text never holds the address, which may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// The address is none.
    #[error("the address is not one of Postgres; it looks like postgres://user:password@host:port/database")]
    Address,
    /// Nothing answers there.
    #[error("nothing answers within {} s", .0.as_secs())]
    Silent(Duration),
    /// The connection fails, or Postgres refuses it.
    #[error(transparent)]
    Refused(#[from] sqlx::Error),
}

/// `host:port/database` of an address, without user and password. `None` when it is no address.
pub fn place(url: &str) -> Option<String> {
    let options: PgConnectOptions = url.parse().ok()?;
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    Some(format!("{}:{}/{database}", options.get_host(), options.get_port()))
}

/// Connects to `url` and gives the server's version and how far its clock is ahead of ours, in seconds.
///
/// # Errors
/// [`ReachError`]; never waits longer than `patience`.
pub async fn version(url: &str, patience: Duration) -> Result<(String, f64), ReachError> {
    let options: PgConnectOptions = url.parse().map_err(|_| ReachError::Address)?;
    let ask = async {
        let mut connection = PgConnection::connect_with(&options).await?;
        let before = chrono::Utc::now();
        let (version, time): (String, chrono::DateTime<chrono::Utc>) =
            sqlx::query_as("select current_setting('server_version'), clock_timestamp()")
                .fetch_one(&mut connection)
                .await?;
        let middle = before + (chrono::Utc::now() - before) / 2;
        let ahead = (time - middle).as_seconds_f64();
        connection.close().await?;
        Ok::<_, sqlx::Error>((version, ahead))
    };
    let answer = tokio::time::timeout(patience, ask).await.map_err(|_| ReachError::Silent(patience))?;
    Ok(answer?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_holds_no_password() {
        let place = place("postgres://ada:secret@db.example:5433/shop");
        assert_eq!(place.as_deref(), Some("db.example:5433/shop"));
        let in_query = super::place("postgres://db.example:5433/shop?user=ada&password=secret");
        assert_eq!(in_query.as_deref(), Some("db.example:5433/shop"));
        assert_eq!(super::place("nonsense"), None);
    }

    #[tokio::test]
    async fn a_closed_port_is_said_at_once() {
        let error = version("postgres://ada:secret@127.0.0.1:1/shop", Duration::from_secs(5)).await;
        let text = error.expect_err("nothing listens on port 1").to_string();
        assert!(!text.contains("secret"), "{text}");
    }
}
