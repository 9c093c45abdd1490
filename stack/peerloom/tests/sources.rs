//! Kinds that come at run time: a table of the file brings them, and the file's layers choose them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use peerloom::core::kinds::{
    AnyTransport, Description, DiscoveryContext, KindSource, NoSettings, Schema, SettingKey, Settings, SettingsError,
    Takes, TransportContext,
};
use peerloom::core::memory::{MemoryDirectory, MemoryDiscovery, MemoryStreams};
use peerloom::{Config, Error, ErrorKind, Kinds, Layer, Node, Result, builtin};

/// Brings a discovery kind whose name stands in its table.
struct Brings {
    schema: Schema,
    directory: MemoryDirectory,
    built: Arc<AtomicUsize>,
}

impl KindSource for Brings {
    fn table(&self) -> &str {
        "plugin"
    }

    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn bring(&self, settings: &Settings, folder: &Path, kinds: &mut Kinds) -> Result<(), SettingsError> {
        assert!(folder.is_absolute());
        let name = settings["name"].as_str().unwrap_or_default();
        let key = SettingKey {
            name: "pages".into(),
            takes: Takes::Number { lowest: 1, highest: 9 },
            default: Some(7.into()),
            documentation: "Most pages to look at.".into(),
            secret: false,
        };
        let schema = Schema::new([key])?;
        let description = Description { name: name.into(), summary: "a book".into(), schema, wraps: false };
        let (directory, built) = (self.directory.clone(), self.built.clone());
        let build = move |settings: &Settings, _, _: &DiscoveryContext| {
            assert_eq!(settings["pages"], 7);
            built.fetch_add(1, Ordering::Relaxed);
            Ok(Arc::new(MemoryDiscovery::new(&directory)) as _)
        };
        Ok(kinds.discoveries.add_described(description, build)?)
    }
}

/// The built-in kinds, the source, streams in memory, and a wrapper of streams.
fn kinds() -> (Kinds, Arc<AtomicUsize>) {
    let key = SettingKey {
        name: "name".into(),
        takes: Takes::Text,
        default: None,
        documentation: "What the kind is called.".into(),
        secret: false,
    };
    let (streams, built) = (MemoryStreams::default(), Arc::new(AtomicUsize::new(0)));
    let schema = Schema::new([key]).expect("a schema");
    let source = Brings { schema, directory: MemoryDirectory::default(), built: built.clone() };
    let mut kinds = builtin::kinds().expect("kinds");
    kinds.add_source(Arc::new(source)).expect("a source");
    let memory = move |_: NoSettings, _: &TransportContext| Ok(AnyTransport::streams(streams.clone()));
    kinds.transports.add("memory", "streams in this process", memory).expect("a kind");
    let over = |_: NoSettings, inner, _: &TransportContext| match inner {
        AnyTransport::Streams(_) => Ok(inner),
        AnyTransport::Links(_) => Err(Error::new(ErrorKind::Invalid, "over", "configure", "it wraps byte streams")),
    };
    kinds.transports.add_wrapper("over", "over other streams", over).expect("a kind");
    (kinds, built)
}

const FILE: &str = "\
[[plugin]]
name = 'book'
[[transport]]
kind = 'over'
inner = { kind = 'memory' }
[[discovery]]
kind = 'book'
[storage]
kind = 'redb'
[[crypto]]
kind = 'mls-classical'
";

fn problems(file: &str, kinds: &Kinds) -> String {
    let folder = std::env::temp_dir();
    Config::parse(file, "peerloom.toml", &folder, &[], kinds).expect_err(file).message().to_owned()
}

async fn start(folder: &Path, kinds: &Kinds) -> Node {
    std::fs::create_dir(folder).and_then(|()| std::fs::write(folder.join("peerloom.toml"), FILE)).expect("a file");
    let config = Config::load(&folder.join("peerloom.toml"), &[], kinds).expect("a configuration");
    assert!(config.kinds().find(Layer::Discovery, "book").is_some());
    let node = Node::open(&config).await.expect("a node");
    node.start().await.expect("it starts");
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_brings_a_discovery_by_which_nodes_find_each_other() {
    let base = tempfile::tempdir().expect("a folder");
    let (kinds, built) = kinds();
    let alice = start(&base.path().join("alice"), &kinds).await;
    let bob = start(&base.path().join("bob"), &kinds).await;
    assert_eq!(built.load(Ordering::Relaxed), 2, "one for each node");
    assert!(kinds.find(Layer::Discovery, "book").is_none(), "what a file brings is that file's");
    let find = async {
        while alice.add_contact_by_id(&bob.user().to_string()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), find).await.expect("bob is announced");
    alice.shutdown().await;
    bob.shutdown().await;
}

#[test]
fn what_is_wrong_with_brought_kinds_names_its_line() {
    let (kinds, _) = kinds();
    for (from, to, expected) in [
        ("'book'\n[[t", "'invite'\n[[t", "peerloom.toml:1: plugin: there is a discovery kind `invite` already"),
        ("[[transport]]", "[[plugin]]\nname = 'book'\n[[transport]]", "peerloom.toml:3: plugin: there is a discovery"),
        ("'book'\n[[t", "'A Book'\n[[t", "`A Book` is no name of a kind"),
        ("name = 'book'\n", "", "peerloom.toml:1: plugin: the key `name` is missing"),
        ("name = 'book'\n", "name = 3\n", "peerloom.toml:2: plugin.name: expected a string"),
        ("name = 'book'\n", "nome = 'book'\n", "[[plugin]] has no key `nome`, did you mean `name`?"),
        ("[[plugin]]\nname = 'book'\n", "plugin = 3\n", "peerloom.toml:1: each `plugin` is a table: write [[plugin]]"),
        ("[[plugin]]\nname = 'book'\n", "", "unknown discovery kind `book`; known: invite"),
        ("kind = 'book'\n", "kind = 'bok'\n", "did you mean `book`?"),
        ("kind = 'book'\n", "kind = 'book'\npages = 10\n", "peerloom.toml:8: discovery.pages: it takes from 1 to 9"),
        ("kind = 'book'\n", "kind = 'book'\nleaves = 1\n", "[[discovery]] of kind `book` has no key `leaves`"),
        ("kind = 'memory'", "kind = 'memori'", "did you mean `memory`?"),
    ] {
        let file = FILE.replacen(from, to, 1);
        assert_ne!(file, FILE, "{from}");
        let message = problems(&file, &kinds);
        assert!(message.contains(expected), "{file}\n{message}");
    }
    let wrong_source = FILE.replace("name = 'book'", "nome = 'book'");
    assert_eq!(problems(&wrong_source, &kinds).lines().count(), 1, "its kind isn't missed, too");
    let none = builtin::kinds().expect("kinds");
    assert!(problems(FILE, &none).contains("the file has no key `plugin`"), "a file can't bring a source");
}

#[test]
fn the_schema_of_the_file_has_the_tables_of_sources() {
    let (kinds, _) = kinds();
    let schema = peerloom::config::file_schema(&kinds);
    assert_eq!(schema["properties"]["plugin"]["anyOf"][0]["required"][0], "name");
}

#[test]
fn a_source_takes_no_table_that_has_a_meaning() {
    for (table, error) in [("transport", Some(ErrorKind::AlreadyExists)), ("delivery", None), ("network", None)] {
        struct Named(&'static str, Schema);
        impl KindSource for Named {
            fn table(&self) -> &str {
                self.0
            }

            fn schema(&self) -> &Schema {
                &self.1
            }

            fn bring(&self, _: &Settings, _: &Path, _: &mut Kinds) -> Result<(), SettingsError> {
                Ok(())
            }
        }
        let mut kinds = kinds().0;
        let added = kinds.add_source(Arc::new(Named(table, Schema::default())));
        assert_eq!(added.err().map(|e| e.kind()), error, "{table}");
        if error.is_none() {
            assert!(problems(FILE, &kinds).contains("another meaning"), "{table}");
        }
    }
}
