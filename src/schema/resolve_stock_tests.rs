//! Resolution held against that of `apache-avro`, where that library does as the specification says.

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::schema::value::ValueSchema;

/// A written type, the type that is wanted for it, and a value of the first.
#[derive(Clone, Debug)]
enum Pair {
    Leaf {
        writer: Value,
        reader: Value,
        value: Value,
    },
    Array {
        item: Box<Pair>,
        count: usize,
    },
    Map {
        entry: Box<Pair>,
        count: usize,
    },
    Record {
        fields: Vec<Field>,
        reversed: bool,
    },
    /// A type that may be null, on one side or on both.
    Nullable {
        inner: Box<Pair>,
        writer: Null,
        reader: Null,
        is_null: bool,
    },
}

#[derive(Clone, Debug)]
enum Field {
    Kept(Pair),
    Dropped(Pair),
    Added(Value, Value),
}

/// Where null stands in a union, if there is one.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Null {
    Nowhere,
    First,
    Last,
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Writer,
    Reader,
}

impl Pair {
    /// The schema of one side. Each named type gets a name of its own, by its number.
    fn schema(&self, side: Side, names: &mut usize) -> Value {
        match self {
            Self::Leaf { writer, reader, .. } => {
                let mut schema = if side == Side::Writer { writer.clone() } else { reader.clone() };
                if schema.get("name").is_some() {
                    *names += 1;
                    schema["name"] = json!(format!("N{names}"));
                }
                schema
            }
            Self::Array { item, .. } => json!({"type": "array", "items": item.schema(side, names)}),
            Self::Map { entry, .. } => json!({"type": "map", "values": entry.schema(side, names)}),
            Self::Record { fields, reversed } => {
                *names += 1;
                let name = format!("N{names}");
                let mut list = Vec::new();
                for (at, field) in fields.iter().enumerate() {
                    let name = format!("f{at}");
                    match field {
                        Field::Kept(pair) => {
                            list.push(json!({"name": name, "type": pair.schema(side, names)}))
                        }
                        Field::Dropped(pair) if side == Side::Writer => {
                            list.push(json!({"name": name, "type": pair.schema(side, names)}));
                        }
                        Field::Added(schema, default) if side == Side::Reader => {
                            list.push(json!({"name": name, "type": schema, "default": default}));
                        }
                        Field::Dropped(_) | Field::Added(..) => {}
                    }
                }
                if *reversed && side == Side::Reader {
                    list.reverse();
                }
                json!({"type": "record", "name": name, "fields": list})
            }
            Self::Nullable { inner, writer, reader, .. } => {
                let schema = inner.schema(side, names);
                match if side == Side::Writer { writer } else { reader } {
                    Null::Nowhere => schema,
                    Null::First => json!(["null", schema]),
                    Null::Last => json!([schema, "null"]),
                }
            }
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Leaf { value, .. } => value.clone(),
            Self::Array { item, count } => json!(vec![item.value(); *count]),
            Self::Map { entry, count } => {
                (0..*count).map(|at| (format!("k{at}"), entry.value())).collect::<Map<_, _>>().into()
            }
            Self::Record { fields, .. } => {
                let written = fields.iter().enumerate().filter_map(|(at, field)| match field {
                    Field::Kept(pair) | Field::Dropped(pair) => Some((format!("f{at}"), pair.value())),
                    Field::Added(..) => None,
                });
                written.collect::<Map<_, _>>().into()
            }
            Self::Nullable { inner, writer, reader, is_null } => {
                let may_be_null = *writer != Null::Nowhere && *reader != Null::Nowhere;
                if *is_null && may_be_null { Value::Null } else { inner.value() }
            }
        }
    }
}

fn leaf(writer: &Value, reader: &Value, value: Value) -> Pair {
    Pair::Leaf { writer: writer.clone(), reader: reader.clone(), value }
}

fn numbers() -> impl Strategy<Value = Pair> {
    let long = |logical: &str| json!({"type": "long", "logicalType": logical});
    let int = |logical: &str| json!({"type": "int", "logicalType": logical});
    let ints =
        vec![json!("int"), json!("long"), json!("float"), json!("double"), int("date"), int("time-millis")];
    let longs = vec![
        json!("long"),
        json!("float"),
        json!("double"),
        long("timestamp-millis"),
        long("timestamp-micros"),
        long("local-timestamp-micros"),
        long("time-micros"),
    ];
    let kept = vec![int("date"), int("time-millis"), long("timestamp-millis"), long("timestamp-nanos")];
    prop_oneof![
        (0..80_000_000_i32, prop::sample::select(ints)).prop_map(|(value, reader)| leaf(
            &json!("int"),
            &reader,
            json!(value)
        )),
        (any::<i32>(), Just(json!("int"))).prop_map(|(value, reader)| leaf(
            &json!("long"),
            &reader,
            json!(value)
        )),
        (0..80_000_000_000_i64, prop::sample::select(longs)).prop_map(|(value, reader)| leaf(
            &json!("long"),
            &reader,
            json!(value)
        )),
        (0..80_000_000_i32, prop::sample::select(kept)).prop_map(|(value, kind)| leaf(
            &kind,
            &kind,
            json!(value)
        )),
        (any::<i64>()).prop_map(|value| leaf(&json!("long"), &json!("double"), json!(value))),
        (-1e30_f32..1e30, prop::sample::select(vec!["float", "double"])).prop_map(|(value, reader)| leaf(
            &json!("float"),
            &json!(reader),
            json!(value)
        )),
        (-1e300_f64..1e300).prop_map(|value| leaf(&json!("double"), &json!("double"), json!(value))),
        (-1e30_f64..1e30).prop_map(|value| leaf(&json!("double"), &json!("float"), json!(value))),
        any::<bool>().prop_map(|value| leaf(&json!("boolean"), &json!("boolean"), json!(value))),
        Just(leaf(&json!("null"), &json!("null"), Value::Null)),
    ]
}

fn texts() -> impl Strategy<Value = Pair> {
    let uuid = json!({"type": "string", "logicalType": "uuid"});
    let id = json!("6ba7b810-9dad-11d1-80b4-00c04fd430c8");
    let fixed = json!({"type": "fixed", "name": "", "size": 3});
    let symbols = |list: &[&str]| json!({"type": "enum", "name": "", "symbols": list});
    let mut with_default = symbols(&["z", "y"]);
    with_default["default"] = json!("y");
    let some = || prop::sample::select(vec!["a", "b"]);
    prop_oneof![
        ("[a-zé]{0,9}", prop::sample::select(vec!["string", "bytes"])).prop_map(|(value, reader)| leaf(
            &json!("string"),
            &json!(reader),
            json!(value)
        )),
        // Base64 of three letters of ASCII.
        ("([JKLMN][FGVW][JZN][hiv]){0,3}", prop::sample::select(vec!["string", "bytes"]))
            .prop_map(|(value, reader)| leaf(&json!("bytes"), &json!(reader), json!(value))),
        Just(leaf(&fixed, &fixed, json!("AAEC"))),
        Just(leaf(&json!("bytes"), &fixed, json!("AAEC"))),
        Just(leaf(&uuid, &uuid, id.clone())),
        Just(leaf(&json!("string"), &uuid, id)),
        some().prop_map(move |value| leaf(&symbols(&["a", "b"]), &symbols(&["c", "b", "a"]), json!(value))),
        some().prop_map(move |value| leaf(&symbols(&["a", "b"]), &with_default, json!(value))),
        some().prop_map(move |value| leaf(&json!("string"), &symbols(&["b", "a"]), json!(value))),
    ]
}

fn pairs() -> impl Strategy<Value = Pair> {
    let leaves = prop_oneof![numbers(), texts()];
    leaves.prop_recursive(4, 24, 5, |inner| {
        let null = || prop::sample::select(vec![Null::Nowhere, Null::First, Null::Last]);
        let added = prop::sample::select(vec![
            (json!("string"), json!("x")),
            (json!("long"), json!(-1)),
            (json!(["null", "long"]), Value::Null),
            (json!(["long", "null"]), json!(9)),
            (json!({"type": "array", "items": "int"}), json!([1, 2])),
            (json!({"type": "map", "values": "string"}), json!({"a": "b"})),
        ]);
        let field = prop_oneof![
            4 => inner.clone().prop_map(Field::Kept),
            1 => inner.clone().prop_map(Field::Dropped),
            1 => added.prop_map(|(schema, default)| Field::Added(schema, default)),
        ];
        let boxed = |pair| Box::new(pair);
        prop_oneof![
            (inner.clone(), 0..4_usize)
                .prop_map(move |(item, count)| Pair::Array { item: boxed(item), count }),
            (inner.clone(), 0..4_usize)
                .prop_map(move |(entry, count)| Pair::Map { entry: boxed(entry), count }),
            (prop::collection::vec(field, 0..5), any::<bool>())
                .prop_map(|(fields, reversed)| Pair::Record { fields, reversed }),
            (inner, null(), null(), any::<bool>()).prop_filter_map(
                "no union in a union, and no null twice",
                move |(inner, writer, reader, is_null)| {
                    let is_plain = match &inner {
                        Pair::Nullable { .. } => false,
                        Pair::Leaf { writer, .. } => *writer != json!("null"),
                        _ => true,
                    };
                    is_plain.then(|| Pair::Nullable { inner: boxed(inner), writer, reader, is_null })
                }
            ),
        ]
    })
}

proptest! {
    #[test]
    fn resolution_does_what_stock_avro_does(pair in pairs()) {
        let writer = pair.schema(Side::Writer, &mut 0).to_string();
        let reader = pair.schema(Side::Reader, &mut 0).to_string();
        let ours = (ValueSchema::parse(&writer).unwrap(), ValueSchema::parse(&reader).unwrap());
        let datum = ours.0.encode(&pair.value()).expect("the value fits the writer's schema").split_off(5);
        let theirs = (Schema::parse_str(&writer).unwrap(), Schema::parse_str(&reader).unwrap());
        let expected = GenericDatumReader::builder(&theirs.0)
            .reader_schema(&theirs.1)
            .build()
            .and_then(|stock| stock.read_value(&mut &*datum))
            .and_then(|value| GenericDatumWriter::builder(&theirs.1).build()?.write_value_to_vec(value))
            .expect("stock Avro resolves it");
        let resolved = ours.1.resolve(&ours.0, &datum).expect("we resolve it");
        prop_assert_eq!(ours.1.read(&resolved), ours.1.read(&expected), "{} as {}", &writer, &reader);
        // No prefix of a record is a record.
        for end in 0..datum.len() {
            let part = ours.1.resolve(&ours.0, &datum[..end]);
            prop_assert!(part.is_err(), "{} of {} bytes", end, datum.len());
        }
    }
}
