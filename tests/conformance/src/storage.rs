//! What every store must do.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use peerloom_core::wire::store::{HISTORY, META, OUT_SEALED, Table, ordered_key};
use peerloom_core::{Batch, KeyRange, Order, Page, Row, Snapshot, Storage, storage::scan_all};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Runs the suite. `open` opens the same store again and again, never twice at once; it is empty at
/// first.
pub fn run(open: impl Fn() -> Arc<dyn Storage>) {
    let storage = open();
    an_empty_store_has_no_rows(&*storage);
    a_batch_is_read_back(&*storage);
    scans_respect_bounds_order_and_pages(&*storage);
    a_snapshot_does_not_change(&*storage);
    large_values_survive(&*storage);
    concurrent_readers_see_whole_batches(&storage);
    let model = a_store_behaves_like_a_map(&*storage);
    storage.verify().expect("a whole store");
    if storage.caps().durable {
        drop(storage);
        for _ in 0..3 {
            let storage = open();
            assert_same(&*storage, &model);
        }
    }
}

fn get(storage: &dyn Storage, table: Table, key: &[u8]) -> Option<Bytes> {
    storage.snapshot().expect("a snapshot").get(table, key).expect("a read")
}

fn all(snapshot: &dyn Snapshot, table: Table) -> Vec<Row> {
    let mut rows = Vec::new();
    scan_all(snapshot, table, KeyRange::all(), |row| {
        rows.push(row);
        Ok(())
    })
    .expect("a scan");
    rows
}

fn an_empty_store_has_no_rows(storage: &dyn Storage) {
    assert_eq!(get(storage, META, b"nothing"), None);
    assert!(all(&*storage.snapshot().expect("a snapshot"), HISTORY).is_empty());
    storage.commit(&Batch::default()).expect("an empty batch is fine");
}

fn a_batch_is_read_back(storage: &dyn Storage) {
    let mut batch = Batch::default();
    batch.put(META, &b"a"[..], &b"1"[..]);
    batch.put(META, &b"a"[..], &b"2"[..]);
    batch.put(META, &b"b"[..], &b"1"[..]);
    batch.delete(META, &b"b"[..]);
    batch.delete(META, &b"never"[..]);
    batch.put(HISTORY, &b"a"[..], &b"another table"[..]);
    batch.put(META, &b"empty"[..], Bytes::new());
    storage.commit(&batch).expect("a commit");
    assert_eq!(get(storage, META, b"a").as_deref(), Some(&b"2"[..]), "later writes of a batch win");
    assert_eq!(get(storage, META, b"b"), None, "a batch's delete comes after its put");
    assert_eq!(get(storage, META, b"empty").as_deref(), Some(&b""[..]), "an empty value is a value");
    assert_eq!(get(storage, HISTORY, b"a").as_deref(), Some(&b"another table"[..]));
    clear(storage);
}

fn clear(storage: &dyn Storage) {
    let snapshot = storage.snapshot().expect("a snapshot");
    let mut batch = Batch::default();
    for table in [META, HISTORY, OUT_SEALED] {
        all(&*snapshot, table).into_iter().for_each(|row| batch.delete(table, row.key));
    }
    storage.commit(&batch).expect("a commit");
}

fn scans_respect_bounds_order_and_pages(storage: &dyn Storage) {
    let id = [0xff; 32];
    let mut batch = Batch::default();
    for order in 0..300u64 {
        batch.put(OUT_SEALED, ordered_key(&[&id], order), order.to_be_bytes().to_vec());
    }
    batch.put(OUT_SEALED, ordered_key(&[&[0xfe; 32]], 7), &b"before"[..]);
    storage.commit(&batch).expect("a commit");
    let snapshot = storage.snapshot().expect("a snapshot");
    let range = KeyRange::prefix(&id);
    let scan = |range: &KeyRange, order, page| snapshot.scan(OUT_SEALED, range, order, page).expect("a scan");
    let number = |row: &Row| u64::from_be_bytes(row.value.as_ref().try_into().expect("eight bytes"));

    let first = scan(&range, Order::Ascending, Page { rows: 10, bytes: usize::MAX });
    assert_eq!(first.iter().map(number).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    let next = scan(&range.clone().after(&first[9].key), Order::Ascending, Page { rows: 2, bytes: usize::MAX });
    assert_eq!(next.iter().map(number).collect::<Vec<_>>(), [10, 11]);
    let last = scan(&range, Order::Descending, Page { rows: 3, bytes: usize::MAX });
    assert_eq!(last.iter().map(number).collect::<Vec<_>>(), [299, 298, 297]);
    let before = scan(&range.clone().before(&last[2].key), Order::Descending, Page::ONE);
    assert_eq!(before.iter().map(number).collect::<Vec<_>>(), [296]);
    let small = scan(&range, Order::Ascending, Page { rows: 100, bytes: 1 });
    assert_eq!(small.len(), 1, "a page has at least one row, however small");
    let sized = scan(&range, Order::Ascending, Page { rows: 100, bytes: 10 * 48 });
    assert!((3..=15).contains(&sized.len()), "a page ends near its bytes, not after {}", sized.len());
    let end = range.clone().after(&ordered_key(&[&id], 299));
    assert!(scan(&end, Order::Ascending, Page::DEFAULT).is_empty(), "behind the last row there is nothing");
    let inverted = KeyRange::prefix(&id).after(&[0xff; 64]).before(&[0xff; 33]);
    assert!(scan(&inverted, Order::Ascending, Page::DEFAULT).is_empty(), "an inverted range is empty");
    drop(snapshot);
    clear(storage);
}

fn a_snapshot_does_not_change(storage: &dyn Storage) {
    let mut batch = Batch::default();
    batch.put(META, &b"k"[..], &b"old"[..]);
    storage.commit(&batch).expect("a commit");
    let old = storage.snapshot().expect("a snapshot");
    let mut batch = Batch::default();
    batch.put(META, &b"k"[..], &b"new"[..]);
    batch.put(META, &b"l"[..], &b"new"[..]);
    storage.commit(&batch).expect("a snapshot doesn't block a commit");
    assert_eq!(old.get(META, b"k").expect("a read").as_deref(), Some(&b"old"[..]));
    assert_eq!(old.get(META, b"l").expect("a read"), None);
    assert_eq!(all(&*old, META).len(), 1);
    assert_eq!(get(storage, META, b"k").as_deref(), Some(&b"new"[..]));
    drop(old);
    clear(storage);
}

fn large_values_survive(storage: &dyn Storage) {
    for size in [4096, 65_536, 300_000, 2 * 1024 * 1024] {
        let value: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let mut batch = Batch::default();
        batch.put(OUT_SEALED, vec![7; 128], value.clone());
        storage.commit(&batch).expect("a commit");
        assert_eq!(get(storage, OUT_SEALED, &[7; 128]).as_deref(), Some(&value[..]), "{size} bytes");
    }
    clear(storage);
}

fn concurrent_readers_see_whole_batches(storage: &Arc<dyn Storage>) {
    let writer = storage.clone();
    let write = std::thread::spawn(move || {
        for round in 0..100u64 {
            let mut batch = Batch::default();
            for key in 0..8u8 {
                batch.put(META, vec![key], round.to_be_bytes().to_vec());
            }
            writer.commit(&batch).expect("a commit");
        }
    });
    while !write.is_finished() {
        let rows = all(&*storage.snapshot().expect("a snapshot"), META);
        assert!(rows.is_empty() || rows.len() == 8);
        assert!(rows.windows(2).all(|w| w[0].value == w[1].value), "half a batch was seen");
    }
    write.join().expect("the writer");
    clear(&**storage);
}

type Model = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

fn a_store_behaves_like_a_map(storage: &dyn Storage) -> Model {
    let seed = 42;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut model = Model::new();
    for _ in 0..60 {
        let mut batch = Batch::default();
        for _ in 0..rng.random_range(0..40) {
            let table = if rng.random() { HISTORY } else { META };
            let key = vec![rng.random_range(0..20u8); rng.random_range(1..4)];
            if rng.random_range(0..3) == 0 {
                batch.delete(table, key.clone());
                model.remove(&(table, key));
            } else {
                let value = vec![rng.random(); rng.random_range(0..2000)];
                batch.put(table, key.clone(), value.clone());
                model.insert((table, key), value);
            }
        }
        storage.commit(&batch).expect("a commit");
    }
    assert_same(storage, &model);
    model
}

fn assert_same(storage: &dyn Storage, model: &Model) {
    let snapshot = storage.snapshot().expect("a snapshot");
    for table in [HISTORY, META] {
        let rows = all(&*snapshot, table).into_iter().map(|row| (row.key.to_vec(), row.value.to_vec()));
        let mut rows: Vec<_> = rows.collect();
        if !storage.caps().ordered_ids && table.id_len > 0 {
            rows.sort();
        }
        let expected =
            model.iter().filter(|((t, _), _)| *t == table).map(|((_, key), value)| (key.clone(), value.clone()));
        assert!(rows.into_iter().eq(expected), "table {} differs from the model", table.name);
    }
}
