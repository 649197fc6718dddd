//! Clients that are not ours: kcat and Java's console tools.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use millrace::devbroker::Settings;

use super::clients::{broker, producer, read, topic, transaction};
use crate::support::millrace::{output, spawn};

/// Runs a program with `input` on its standard input; gives its standard output.
fn run(command: &mut Command, input: &str) -> String {
    let mut child = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()))
        .unwrap_or_else(|error| panic!("{command:?}: {error}; ./scripts/test installs what is needed"));
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("the program reads");
    drop(stdin);
    let output = child.wait_with_output().expect("the program ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn kcat_produces_and_consumes() {
    let (_broker, kafka) = broker(Settings::default());
    let topic = topic(&kafka, "kcat", 1, &[]).await;
    let kcat = |arguments: &[&str], input: &str| {
        run(Command::new("kcat").args(["-q", "-b", &kafka]).args(arguments), input)
    };
    let mut expected = Vec::new();
    for codec in ["none", "gzip", "snappy", "lz4"] {
        kcat(
            &["-P", "-t", &topic, "-p", "0", "-K", ":", "-z", codec],
            &format!("k:{codec} 1\nk:{codec} 2\n"),
        );
        expected.extend([format!("{codec} 1"), format!("{codec} 2")]);
    }
    let read_back = kcat(&["-C", "-t", &topic, "-e", "-o", "beginning", "-f", "%k=%s\n"], "");
    assert_eq!(
        read_back.lines().collect::<Vec<_>>(),
        expected.iter().map(|v| format!("k={v}")).collect::<Vec<_>>()
    );
    let last = kcat(&["-C", "-t", &topic, "-p", "0", "-e", "-o", "-1"], "");
    assert_eq!(last.trim(), "lz4 2");
    let group = ["-G", "kcat-group", "-e", "-X", "auto.offset.reset=earliest", &topic];
    assert_eq!(kcat(&group, "").lines().count(), expected.len());
    assert!(kcat(&["-L", "-J"], "").contains(&topic));
    assert_eq!(read(&kafka, &topic, "read_committed"), expected, "our own client reads all codecs");
}

/// The classes of the Kafka that `scripts/services` keeps in its cache, and the Java that runs it.
fn java() -> Option<Command> {
    let cache = std::env::var_os("MILLRACE_CACHE").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(PathBuf::from(home).join(".cache/millrace"))
    })?;
    let folder = std::fs::read_dir(cache).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let jars = folder.filter(|path| path.join("kafka-tools-4.2.1.jar").exists()).last()?;
    let java = std::env::var_os("JAVA_HOME")
        .map_or_else(|| "java".into(), |home| PathBuf::from(home).join("bin/java"));
    output(Command::new(&java).arg("-version")).ok()?;
    let mut command = Command::new(java);
    command.args(["-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"]).arg(jars.join("*"));
    Some(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn javas_console_tools_produce_and_read_committed() {
    if java().is_none() {
        let line = "not run here: javas_console_tools_produce_and_read_committed: no Java, or no Kafka in the cache\n";
        std::io::stderr().write_all(line.as_bytes()).expect("standard error is open");
        return;
    }
    let tool = |class: &str, arguments: &[&str], input: &str| {
        let mut command = java().expect("it was there before");
        run(command.arg(class).args(arguments), input)
    };
    let (_broker, kafka) = broker(Settings::default());
    let topic = topic(&kafka, "java", 1, &[]).await;
    let transactional = producer(&kafka, Some("java"));
    transaction(&transactional, &topic, &["a"], true);
    transaction(&transactional, &topic, &["aborted"], false);
    tool(
        "org.apache.kafka.tools.ConsoleProducer",
        &["--bootstrap-server", &kafka, "--topic", &topic, "--compression-codec", "zstd"],
        "b\nc\n",
    );
    let values = tool(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        &[
            "--bootstrap-server",
            &kafka,
            "--topic",
            &topic,
            "--from-beginning",
            "--isolation-level",
            "read_committed",
            "--max-messages",
            "3",
            "--timeout-ms",
            "30000",
        ],
        "",
    );
    assert_eq!(values.lines().collect::<Vec<_>>(), ["a", "b", "c"]);
}
