//! Signs that a request of a producer may have been sent twice, as librdkafka tells them: errors of connections at once,
//! and three counters of its statistics twice a second.
//!
//! A copy of the request that ends a transaction, held up on a connection that broke, could end a later one: the client
//! has no KIP-890. So a producer that shows such a sign during a commit is not used again, and its successor's
//! `init_transactions` fences whatever is still on its way.

use rdkafka::error::RDKafkaErrorCode;

/// What librdkafka counts over all its brokers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counters {
    /// Requests that were not answered in time.
    pub(crate) timeouts: u64,
    /// Requests sent again.
    pub(crate) retries: u64,
    /// Connections lost.
    pub(crate) disconnects: u64,
}

impl Counters {
    /// Adds up what the statistics' JSON says of each broker. Looks for the three keys alone: parsing it whole takes longer
    /// than a small transaction, and no other part has keys of these names.
    pub(crate) fn read(json: &[u8]) -> Self {
        Self {
            timeouts: sum(json, b"\"req_timeouts\":"),
            retries: sum(json, b"\"txretries\":"),
            disconnects: sum(json, b"\"disconnects\":"),
        }
    }

    /// Whether any of them is higher than it was.
    pub(crate) fn rose_since(self, before: Self) -> bool {
        let Self { timeouts, retries, disconnects } = before;
        self.timeouts > timeouts || self.retries > retries || self.disconnects > disconnects
    }
}

fn sum(json: &[u8], key: &[u8]) -> u64 {
    let mut rest = json;
    let mut total = 0_u64;
    while let Some(at) = rest.windows(key.len()).position(|window| window == key) {
        rest = &rest[at + key.len()..];
        let digits = rest.iter().skip_while(|byte| **byte == b' ').take_while(|byte| byte.is_ascii_digit());
        let number = digits
            .fold(0_u64, |number, digit| number.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
        total = total.saturating_add(number);
    }
    total
}

/// Whether an error that librdkafka tells of means that a connection broke or a request was not answered.
pub(crate) fn is_sign(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{
        AllBrokersDown, BrokerTransportFailure, OperationTimedOut, RequestTimedOut, Resolve,
    };
    matches!(code, AllBrokersDown | BrokerTransportFailure | OperationTimedOut | RequestTimedOut | Resolve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_all_brokers_are_added_up() {
        let json = br#"{"name":"x","brokers":{"a:1/1":{"tx":9,"txerrs":0,"txretries":2,"txidle":5,"req_timeouts":0,
            "connects":3,"disconnects": 1},"a:2/2":{"txretries":40,"req_timeouts":7,"disconnects":0}},"topics":{}}"#;
        let counters = Counters::read(json);
        assert_eq!(counters, Counters { timeouts: 7, retries: 42, disconnects: 1 });
        assert_eq!(Counters::read(b"{\"txretries\":"), Counters::default());
    }

    #[test]
    fn any_of_the_three_is_a_sign_when_it_rises() {
        let calm = Counters { timeouts: 1, retries: 1, disconnects: 1 };
        assert!(!calm.rose_since(calm));
        assert!(!Counters::default().rose_since(calm), "a broker that left takes its counts with it");
        for risen in [
            Counters { timeouts: 2, ..calm },
            Counters { retries: 2, ..calm },
            Counters { disconnects: 2, ..calm },
        ] {
            assert!(risen.rose_since(calm));
        }
    }
}
