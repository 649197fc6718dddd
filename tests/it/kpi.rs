//! `millrace kpi` as an operator runs it, against roles that run.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::events;
use crate::support::scenario::Scenario;
use crate::support::servers;

const EVENTS: usize = 3_000;

async fn count(scenario: &Scenario, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement).fetch_one(&scenario.database.pool).await.expect("Postgres answers")
}

/// Another dimension in the file: `apply` refuses and says what to do, `kpi rebuild` does it while worker and projector
/// run; killed in the middle it changes nothing and can be run again.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_kpi_is_rebuilt_beside_the_running_roles() {
    let scenario = Scenario::new("kpi", "whsec_kpi").await;
    let millrace = &scenario.millrace;
    millrace.run_ok(&["apply", "--yes"]);
    let role = |name: &str| {
        let words = [name, "--metrics", "127.0.0.1:0", "--session-timeout", "6s"];
        millrace.start(name, &words)
    };
    let (mut worker, mut projector) = (role("worker"), role("project"));
    let payments = events::generate(21, EVENTS, 300);
    let topic = format!("{}.events", scenario.name);
    events::produce(&servers::kafka(), &topic, &payments[..EVENTS / 2]);
    let facts = "select coalesce(sum(events), 0)::bigint from kpi_values where window_size = '1h'";
    let expected =
        |payments: &[events::Payment]| payments.iter().filter(|payment| payment.livemode).count() as i64;
    let half = expected(&payments[..EVENTS / 2]);
    until(&scenario, facts, half).await;

    let listed: Value =
        serde_json::from_str(&millrace.run_ok(&["kpi", "list", "--output", "json"])).expect("JSON");
    assert_eq!((&listed[0]["kpi"], &listed[0]["state"]), (&Value::from("revenue"), &Value::from("ok")));
    let file = scenario.folder.path().join("kpis/revenue.yaml");
    let text = std::fs::read_to_string(&file).expect("our own file");
    std::fs::write(&file, text.replace("[currency]", "[]").replace("[1h, 1d]", "[1m, 1h]"))
        .expect("our own file");
    let refused = millrace.run(&["apply", "--yes"]);
    assert_eq!(refused.status.code(), Some(3));
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(said.contains("`millrace kpi rebuild revenue` folds them anew"), "{said}");
    let listed = millrace.run_ok(&["kpi", "list"]);
    assert!(listed.contains("revenue: dimensions is [currency] here and [] in the files"), "{listed}");

    let dry = millrace.run_ok(&["kpi", "rebuild", "revenue", "--dry-run"]);
    assert!(dry.ends_with("nothing was changed: --dry-run\n"), "{dry}");
    millrace.start("rebuild", &["kpi", "rebuild", "--all", "--yes"]).kill();
    assert_eq!(count(&scenario, "select count(distinct dimensions) from kpi_part").await, 3);

    events::produce(&servers::kafka(), &topic, &payments[EVENTS / 2..]);
    // The lock of the one that was killed goes with its connection.
    let deadline = Instant::now() + Duration::from_secs(30);
    let report = loop {
        let output = millrace.run(&["kpi", "rebuild", "--all", "--yes", "--output", "json"]);
        if output.status.success() {
            break output;
        }
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(why.contains("another rebuild is under way") && Instant::now() < deadline, "{why}");
    };
    let report: Value = serde_json::from_slice(&report.stdout).expect("JSON");
    assert_eq!(report["swapped"], true, "{report}");
    until(&scenario, facts, expected(&payments)).await;
    let sum = "select sum(value)::bigint from kpi_revenue_1h";
    let wanted: i64 = payments.iter().filter(|payment| payment.livemode).map(|payment| payment.amount).sum();
    assert_eq!(count(&scenario, sum).await, wanted);
    assert_eq!(count(&scenario, "select count(distinct dimensions) from kpi_part").await, 1);
    assert_eq!(count(&scenario, "select count(*) from kpi_part where window_size = '1d'").await, 0);
    let shown = millrace.run_ok(&["kpi", "show", "revenue"]);
    assert!(shown.starts_with("revenue: sum of payment, by -, days of UTC, lateness 172800 s"), "{shown}");
    assert!(millrace.run_ok(&["plan"]).contains("nothing to change"));
    let unknown = millrace.run(&["kpi", "rebuild", "revenu", "--yes"]);
    assert_eq!(unknown.status.code(), Some(2));
    for role in [&mut worker, &mut projector] {
        role.assert_alive();
        assert!(role.terminate(Duration::from_secs(30)), "{}", role.log_text());
    }
}

async fn until(scenario: &Scenario, statement: &'static str, wanted: i64) {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let found = count(scenario, statement).await;
        if found == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{found} of {wanted}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
