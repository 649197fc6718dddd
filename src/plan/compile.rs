//! From what the files say to what they mean. Same files, same plan: nothing here looks at the environment or the
//! clock, so that `check` says the same on every machine.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::config;
use crate::config::pipeline::Input;
use crate::config::project::{Project, Thing};
use crate::expr::types::Types;
use crate::ledger::Namespace;
use crate::plan::Plan;
use crate::plan::checks::{self, Flow, Mentions, Wanted};
use crate::plan::compile_flow;
use crate::plan::declared::{self, Topics};
use crate::plan::flow::{self, ErrorPolicy, Step};
use crate::plan::pipeline::{self, Delivery, Group, Ordering, Pipeline, TypePattern};
use crate::plan::sources::PlannedSource;
use crate::plan::topics::{self, TopicSpec};
use crate::stages::context::{CompileCx, Declared, ValueFormat};
use crate::yaml::lint::{Lints, Spanned, nearest};

/// Compiles a project. `None` when there are errors; all of them are in `lints`.
pub fn compile(project: &Project, namespace: &Namespace, lints: &mut Lints) -> Option<Plan> {
    let topics = declared::topics(project, lints);
    let declared = declared_names(project, &topics);
    let compiler = Compiler { project, namespace, topics, declared };
    let kpis = declared::kpis(project, lints);
    let own = compiler.own_topics();
    declared::reserved_topics(project, own.iter().map(|topic| &*topic.name), lints);
    let sources = compiler.sources(lints);
    let mentions: BTreeMap<&str, Mentions> =
        project.pipelines.iter().map(|(name, thing)| (&**name, Mentions::of(&thing.value.stages))).collect();
    compiler.flow(&mentions, lints);
    let pipelines = compiler.pipelines(lints);
    let groups = compiler.groups(&pipelines, lints);
    // What could not be read is not held against the others.
    if !project.broken.iter().any(|name| name.starts_with("pipelines/")) {
        compiler.facts(&mentions, lints);
    }
    if !lints.has_errors() {
        compiler.unused_topics(&mentions, lints);
    }
    if lints.has_errors() {
        return None;
    }
    let config_hash = hash(&project.files.iter().map(|file| file.text.as_str()).collect::<Vec<_>>());
    let targets = compiler.declared.targets;
    let Topics { topics, tables } = compiler.topics;
    let mut topics: Vec<TopicSpec> = topics.into_values().chain(own).collect();
    topics.sort_by(|left, right| left.name.cmp(&right.name));
    Some(Plan {
        namespace: namespace.clone(),
        groups,
        topics,
        tables,
        kpis,
        sources,
        targets,
        pipelines,
        config_hash,
    })
}

struct Compiler<'a> {
    project: &'a Project,
    namespace: &'a Namespace,
    topics: Topics,
    declared: Declared,
}

/// What stages may refer to by name.
fn declared_names(project: &Project, topics: &Topics) -> Declared {
    let found = topics.topics.iter().map(|(name, topic)| (name.clone(), topic.value.clone()));
    // A topic whose file is broken is there all the same; it is not to be reported as undeclared by its readers.
    let broken = project.broken.iter().filter_map(|name| name.strip_prefix("topics/"));
    let broken = broken.map(|name| (name.to_owned(), ValueFormat::Json));
    let broken_connectors = project.broken.iter().filter_map(|name| name.strip_prefix("connectors/"));
    Declared {
        root: project.root.clone(),
        topics: found.chain(broken).collect(),
        targets: project
            .connectors
            .iter()
            .filter_map(|(name, thing)| Some((name.clone(), Arc::clone(thing.value.target.as_ref()?))))
            .collect(),
        broken_connectors: broken_connectors.map(str::to_owned).collect(),
    }
}

impl<'a> Compiler<'a> {
    /// Sources with their expressions compiled; each writes to a declared topic.
    fn sources(&self, lints: &mut Lints) -> BTreeMap<String, PlannedSource> {
        let mut sources = BTreeMap::new();
        for (name, thing) in &self.project.connectors {
            let Some(source) = &thing.value.source else { continue };
            self.is_declared(&source.topic, "the source writes to", lints);
            if let Some(planned) = PlannedSource::compile(source, lints) {
                sources.insert(name.clone(), planned);
            }
        }
        sources
    }

    /// Reports a topic that no file declares. `says` is the begin of the message.
    fn is_declared(&self, topic: &Spanned<String>, says: &str, lints: &mut Lints) -> bool {
        let name = topic.value.as_str();
        if self.project.topics.contains_key(name) || self.project.is_broken("topics", name) {
            return true;
        }
        let message = format!("{says} topic `{name}`, which no file in topics/ declares");
        let known = self.project.topics.keys().map(String::as_str);
        let help = match nearest(name, known) {
            Some(near) => format!("`{near}` is declared in topics/{near}.yaml"),
            None => format!("create topics/{name}.yaml"),
        };
        lints.error("undeclared-topic", &topic.span, message, help);
        false
    }

    fn flow(&self, mentions: &BTreeMap<&str, Mentions>, lints: &mut Lints) {
        let flows: Vec<Flow<'_>> = self
            .project
            .pipelines
            .iter()
            .filter_map(|(name, thing)| {
                let input = &thing.value.input;
                Some(Flow {
                    pipeline: name,
                    reads: input.topics.iter().map(|topic| &*topic.value).collect(),
                    is_typed: !input.types.is_empty(),
                    writes: &mentions.get(&**name)?.emits,
                })
            })
            .collect();
        checks::circles(&flows, lints);
    }

    fn facts(&self, mentions: &BTreeMap<&str, Mentions>, lints: &mut Lints) {
        let mut stated: BTreeMap<String, Vec<BTreeSet<String>>> = BTreeMap::new();
        for (fact, dimensions) in mentions.values().flat_map(|mentions| &mentions.facts) {
            stated.entry(fact.value.clone()).or_default().push(dimensions.clone());
        }
        let kpis = self.project.kpis.values().map(|thing| &thing.value);
        let wanted: Vec<Wanted<'_>> =
            kpis.map(|kpi| Wanted { fact: &kpi.fact, dimensions: &kpi.dimensions }).collect();
        checks::facts(&wanted, &stated, lints);
    }

    /// Topics that nobody reads, writes or keeps a table of.
    fn unused_topics(&self, mentions: &BTreeMap<&str, Mentions>, lints: &mut Lints) {
        let mut used: BTreeSet<&str> = BTreeSet::new();
        let connectors = self.project.connectors.values();
        used.extend(
            connectors.filter_map(|thing| thing.value.source.as_ref()).map(|source| &*source.topic.value),
        );
        for thing in self.project.pipelines.values() {
            used.extend(thing.value.input.topics.iter().map(|topic| &*topic.value));
        }
        used.extend(mentions.values().flat_map(|mentions| &mentions.emits).map(|topic| &*topic.value));
        for (name, thing) in &self.project.topics {
            if !used.contains(name.as_str()) && thing.value.table.is_none() {
                let message = format!("nothing reads or writes the topic `{name}`");
                lints.warning("unused-topic", &thing.begin(), message, "remove the file if it is not needed");
            }
        }
    }

    fn pipelines(&self, lints: &mut Lints) -> Vec<Arc<Pipeline>> {
        let pipelines = self.project.pipelines.iter();
        pipelines.map(|(name, thing)| Arc::new(self.pipeline(name, thing, lints))).collect()
    }

    fn pipeline(&self, name: &str, thing: &Thing<config::pipeline::Pipeline>, lints: &mut Lints) -> Pipeline {
        let written = &thing.value;
        let dead_letter_topic = topics::dead_letter_name(name);
        for topic in &written.input.topics {
            if topic.value == *dead_letter_topic {
                let message = "a pipeline cannot read its own dead letters";
                lints.error("loop", &topic.span, message, "use `millrace dlq replay`");
            } else if !self.is_dead_letter(&topic.value) {
                self.is_declared(topic, "`input` reads", lints);
            }
        }
        for call in written.tests.iter().flat_map(|case| &case.http) {
            if !self.declared.broken_connectors.contains(&call.connector.value) {
                call.check(&self.declared.targets, lints);
            }
        }
        let name: Arc<str> = name.into();
        let mut cx = CompileCx {
            types: self.types(&written.input),
            declared: &self.declared,
            pipeline: Arc::clone(&name),
            step: Arc::clone(&name),
        };
        let steps = compile_flow::compile_steps(&written.stages, &mut cx, lints);
        let default = ErrorPolicy::default();
        let topics = inputs(written);
        check_tiers(written, &steps, lints);
        Pipeline {
            companions: topics::companions(&name, &topics, tiers(written)),
            topics,
            types: written.input.types.iter().map(|kind| pattern(&kind.value)).collect(),
            ordering: match written.ordering {
                config::pipeline::Ordering::Key => Ordering::Key,
                config::pipeline::Ordering::Partition => Ordering::Partition,
                config::pipeline::Ordering::None => Ordering::None,
            },
            concurrency: self.concurrency(written, lints),
            results: written.results,
            on_error: written
                .on_error
                .as_ref()
                .map_or_else(|| default.clone(), |policy| compile_flow::compile_policy(policy, &default)),
            stop_above: compile_flow::compile_stop_above(written.on_error.as_ref()),
            dead_letter_topic,
            config_hash: hash(&[&thing.file.text]),
            is_cpu_only: !compile_flow::waits(&steps),
            projection: flow::projection(&steps),
            name,
            steps,
        }
    }

    /// Records at work at the same time. More than a destination takes wait in front of it.
    fn concurrency(&self, written: &config::pipeline::Pipeline, lints: &mut Lints) -> NonZeroUsize {
        let Some(Spanned { value: wanted, span }) = &written.concurrency else {
            return pipeline::CONCURRENCY;
        };
        let narrow = Mentions::of(&written.stages).calls.into_iter().find_map(|connector| {
            let limit = self.declared.targets.get(&connector)?.limits.concurrency.get();
            (u64::try_from(wanted.get()).is_ok_and(|wanted| wanted > u64::from(limit)))
                .then_some((connector, limit))
        });
        if let Some((connector, limit)) = narrow {
            let message =
                format!("{wanted} records at work, but `{connector}` takes {limit} calls at the same time");
            let help = format!(
                "write `limits: {{concurrency: {wanted}}}` in connectors/{connector}.yaml if the destination takes so many"
            );
            lints.warning("narrow-target", span, message, help);
        }
        *wanted
    }

    /// What is known of the values of a pipeline's input: what all of its topics have in common.
    fn types(&self, input: &Input) -> Types {
        let mut all: Option<Types> = None;
        for topic in &input.topics {
            let types = match self.declared.topics.get(&topic.value) {
                Some(ValueFormat::Avro { schema }) => serde_json::from_str(schema)
                    .map_or_else(|_| Types::default(), |schema| Types::of_avro_schema(&schema)),
                Some(ValueFormat::Json | ValueFormat::Bytes) | None => Types::default(),
            };
            match &mut all {
                Some(all) => all.join(types),
                None => all = Some(types),
            }
        }
        all.unwrap_or_default()
    }

    /// Whether `name` is the dead-letter topic of a pipeline of this project.
    fn is_dead_letter(&self, name: &str) -> bool {
        name.strip_suffix(".dlq").is_some_and(|pipeline| self.project.pipelines.contains_key(pipeline))
    }

    /// Forms the consumer groups; pipelines of one group must agree about delivery.
    fn groups(&self, pipelines: &[Arc<Pipeline>], lints: &mut Lints) -> Vec<Group> {
        let mut first: BTreeMap<&str, (&str, config::pipeline::Delivery)> = BTreeMap::new();
        for (name, thing) in &self.project.pipelines {
            let delivery = thing.value.delivery.as_ref().map(|delivery| delivery.value).unwrap_or_default();
            let group = group_of(name, thing);
            match first.get(group) {
                None => {
                    first.insert(group, (name, delivery));
                }
                Some((other, agreed)) if *agreed != delivery => {
                    let written = thing.value.delivery.as_ref().map(|delivery| &delivery.span);
                    let place = written.or(thing.value.group.as_ref().map(|group| &group.span));
                    let message = format!(
                        "pipelines of group `{group}` disagree: `{name}` wants {}, `{other}` wants {}",
                        delivery.word(),
                        agreed.word()
                    );
                    let help =
                        "pipelines of one group share their transactions: agree, or choose another group";
                    lints.error("delivery-conflict", place.unwrap_or(&thing.begin()), message, help);
                }
                Some(_) => {}
            }
        }
        let mut groups: BTreeMap<&str, Vec<Arc<Pipeline>>> = BTreeMap::new();
        for pipeline in pipelines {
            if let Some(thing) = self.project.pipelines.get(&*pipeline.name) {
                groups.entry(group_of(&pipeline.name, thing)).or_default().push(Arc::clone(pipeline));
            }
        }
        let group = |(name, pipelines): (&str, Vec<Arc<Pipeline>>)| {
            let topics: BTreeSet<Arc<str>> =
                pipelines.iter().flat_map(|pipeline| pipeline.topics.iter().cloned()).collect();
            let delivery = first.get(name).map_or_else(Default::default, |(_, delivery)| *delivery);
            Group {
                id: self.namespace.name(name),
                delivery: meaning(delivery),
                topics: topics.into_iter().collect(),
                pipelines,
            }
        };
        groups.into_iter().map(group).collect()
    }

    /// Topics that Millrace makes for itself: the ledger, and dead letters.
    fn own_topics(&self) -> Vec<TopicSpec> {
        let mut specs: Vec<TopicSpec> = topics::ledger(self.namespace).into();
        for (name, thing) in &self.project.pipelines {
            specs.push(topics::dead_letter(name, self.widest_input(&thing.value)));
            for companions in topics::companions(name, &inputs(&thing.value), tiers(&thing.value)) {
                let partitions = self.partitions_of(&companions.input);
                let own = companions.topics();
                specs.extend(own.map(|own| topics::companion(own, &companions.input, partitions)));
            }
        }
        specs
    }

    /// Partitions of a pipeline's widest input.
    fn widest_input(&self, written: &config::pipeline::Pipeline) -> NonZeroU32 {
        let inputs = written.input.topics.iter();
        inputs.map(|topic| self.partitions_of(&topic.value)).max().unwrap_or(NonZeroU32::MIN)
    }

    /// Partitions of a topic that a pipeline reads: a declared one, or the dead letters of another pipeline.
    fn partitions_of(&self, topic: &str) -> NonZeroU32 {
        if let Some(declared) = self.topics.topics.get(topic) {
            return declared.partitions;
        }
        let other = topic.strip_suffix(".dlq").and_then(|name| self.project.pipelines.get(name));
        let declared = other.into_iter().flat_map(|thing| &thing.value.input.topics);
        let declared = declared.filter_map(|topic| self.topics.topics.get(&topic.value));
        declared.map(|topic| topic.partitions).max().unwrap_or(NonZeroU32::MIN)
    }
}

fn inputs(written: &config::pipeline::Pipeline) -> Vec<Arc<str>> {
    written.input.topics.iter().map(|topic| topic.value.as_str().into()).collect()
}

/// The pipeline's retry tiers.
fn tiers(written: &config::pipeline::Pipeline) -> &[Duration] {
    let tiers = written.on_error.as_ref().and_then(|policy| policy.tiers.as_ref());
    tiers.map_or(&[], |tiers| &tiers.value)
}

/// Reports tiers that cannot do what they are for.
fn check_tiers(written: &config::pipeline::Pipeline, steps: &[Step], lints: &mut Lints) {
    let Some(tiers) = written.on_error.as_ref().and_then(|policy| policy.tiers.as_ref()) else { return };
    if written.ordering == config::pipeline::Ordering::Partition {
        let message = "a pipeline with `ordering: partition` cannot have retry tiers";
        let help = "one waiting record would send all of its partition through the tiers: retry in place, or \
                    choose `ordering: key`";
        lints.error("tiers-ordering", &tiers.span, message, help);
    }
    // A stage that is broken may be one that waits.
    if !compile_flow::waits(steps) && !lints.has_errors() {
        let message = "no stage of this pipeline waits for anything that could be down";
        lints.warning("tiers-unused", &tiers.span, message, "remove `tiers`: nothing here fails for a while");
    }
}

/// `payment_intent.*` takes all that begin so, anything else itself.
fn pattern(written: &str) -> TypePattern {
    match written.strip_suffix('*') {
        Some(begin) => TypePattern::Prefix(begin.to_owned()),
        None => TypePattern::Exact(written.to_owned()),
    }
}

/// The group's name: as written, else the pipeline's.
fn group_of<'a>(name: &'a str, thing: &'a Thing<config::pipeline::Pipeline>) -> &'a str {
    thing.value.group.as_ref().map_or(name, |group| &group.value)
}

fn meaning(delivery: config::pipeline::Delivery) -> Delivery {
    match delivery {
        config::pipeline::Delivery::ExactlyOnce => Delivery::ExactlyOnce,
        config::pipeline::Delivery::AtLeastOnce => Delivery::AtLeastOnce,
    }
}

/// First 12 hexadecimal digits of SHA-256.
fn hash(parts: &[&str]) -> Arc<str> {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    hex::encode(&digest.finalize()[..6]).into()
}

#[cfg(test)]
mod tests;
