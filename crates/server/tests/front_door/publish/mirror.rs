//! A mirror that fails at every step: what readers of it see is whole at every moment, and in the end it has everything.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use mainspring_client::TenantId;
use mainspring_flows::publish::mirror::rebuild;
use mainspring_flows::publish::{Mirror, MirrorBundle, MirrorError, MirrorPointer, Updated};
use serde_json::json;

use super::{ask, done, eventually, look, over, pointer, publish, put_draft, sound, stage, started};
use crate::harness::{Setup, TENANT_A};

type Doing<'a> = Pin<Box<dyn Future<Output = Result<(), MirrorError>> + Send + 'a>>;

/// What a mirror holds, and how often it still fails.
#[derive(Default)]
struct Held {
    bundles: BTreeMap<(u64, String), (String, Vec<u8>)>,
    pointer: Option<(u64, u64)>,
    told: Vec<u64>,
    puts: u32,
    /// The put from which on all fail, counted from 1; 0 for none.
    fails_from: u32,
    fails_pointing: bool,
    catches_up: bool,
}

#[derive(Clone, Default)]
struct Book(Arc<Mutex<Held>>);

impl Book {
    fn with<T>(&self, act: impl FnOnce(&mut Held) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Mirror for Book {
    fn catches_up(&self) -> bool {
        self.with(|held| held.catches_up)
    }

    fn put<'a>(&'a self, bundle: &'a MirrorBundle) -> Doing<'a> {
        Box::pin(async move {
            self.with(|held| {
                held.puts += 1;
                if held.fails_from > 0 && held.puts >= held.fails_from {
                    return Err(MirrorError("the mirror is away".to_owned()));
                }
                let key = (bundle.version, bundle.kind.clone());
                let new = (bundle.digest.clone(), bundle.content.to_vec());
                if let Some(before) = held.bundles.insert(key, new.clone()) {
                    assert_eq!(before, new, "a bundle never changes");
                }
                Ok(())
            })
        })
    }

    fn point<'a>(&'a self, pointer: &'a MirrorPointer) -> Doing<'a> {
        Box::pin(async move {
            self.with(|held| {
                if held.fails_pointing {
                    return Err(MirrorError("the mirror is read-only".to_owned()));
                }
                if held.pointer.is_none_or(|(epoch, _)| epoch <= pointer.epoch) {
                    held.pointer = Some((pointer.epoch, pointer.version));
                }
                Ok(())
            })
        })
    }

    fn notify<'a>(&'a self, updated: &'a Updated) -> Doing<'a> {
        Box::pin(async move {
            self.with(|held| held.told.push(updated.version));
            Ok(())
        })
    }

    fn forget<'a>(&'a self, _: TenantId, _: &'a str, version: u64, _: &'a [String]) -> Doing<'a> {
        Box::pin(async move {
            self.with(|held| held.bundles.retain(|(of, _), _| *of != version));
            Ok(())
        })
    }
}

/// H-54: it is killed after three of five bundles. The pointer is where it was; written again, they are the same.
#[tokio::test]
async fn killed_after_three_of_five_bundles_the_pointer_is_where_it_was() {
    let book = Book::default();
    let (server, user, _agent) = started(Setup::new().mirror(Arc::new(book.clone()))).await;
    publish(&user, "one").await;
    assert_eq!(book.with(|held| (held.bundles.len(), held.pointer, held.told.clone())), (5, Some((1, 1)), vec![1]));
    book.with(|held| held.fails_from = held.puts + 4);
    put_draft(&user, &sound("two")).await;
    let id = ask(&user, "publish", &json!({})).await;
    eventually("the fourth bundle can't be written", || async {
        let found = look(&user, &id).await.ok();
        (stage(&found, "write_bundles")["failed_tries"].as_u64() > Some(0)).then_some(())
    })
    .await;
    let found = look(&user, &id).await.ok();
    assert!(stage(&found, "write_bundles")["error"].as_str().expect("why").contains("away"), "{found:#}");
    assert_eq!((pointer(&user).await["version"].as_u64(), book.with(|held| held.pointer)), (Some(1), Some((1, 1))));
    let server = server.crash(None).await;
    let user = server.user().await;
    assert_eq!(pointer(&user).await["version"], 1);
    book.with(|held| held.fails_from = 0);
    let ended = over(&user, &id).await;
    assert_eq!((&ended["status"], &ended["epoch"]), (&json!("completed"), &json!(2)), "{ended:#}");
    assert_eq!(book.with(|held| (held.bundles.len(), held.pointer)), (10, Some((2, 2))));
}

/// H-55: it is killed after the swap, before the mirror knows. Turns see the new version at once; the mirror gets it later.
#[tokio::test]
async fn killed_after_the_swap_the_mirror_is_told_in_the_end() {
    let book = Book::default();
    let (server, user, _agent) = started(Setup::new().mirror(Arc::new(book.clone()))).await;
    publish(&user, "one").await;
    book.with(|held| held.fails_pointing = true);
    put_draft(&user, &sound("two")).await;
    let id = ask(&user, "publish", &json!({})).await;
    eventually("the mirror can't be pointed", || async {
        let found = look(&user, &id).await.ok();
        (stage(&found, "invalidate_cache")["failed_tries"].as_u64() > Some(0)).then_some(())
    })
    .await;
    assert_eq!(pointer(&user).await["version"], 2);
    assert_eq!(super::says(&user, "ann").await, "v2");
    user.post(&format!("/v1/publishes/{id}/cancel"), &json!({})).await.problem(409, "config_conflict");
    let server = server.crash(None).await;
    let user = server.user().await;
    assert_eq!(book.with(|held| held.pointer), Some((1, 1)));
    book.with(|held| held.fails_pointing = false);
    let ended = over(&user, &id).await;
    assert_eq!((&ended["status"], &ended["epoch"]), (&json!("completed"), &json!(2)), "{ended:#}");
    assert_eq!(book.with(|held| held.pointer), Some((2, 2)));
    assert_eq!(pointer(&user).await["epoch"], 2, "it moved once");
}

#[tokio::test]
async fn a_mirror_that_lost_everything_is_made_anew() {
    let book = Book::default();
    let (server, user, _agent) = started(Setup::new().mirror(Arc::new(book.clone()))).await;
    publish(&user, "one").await;
    publish(&user, "two").await;
    done(&user, "rollback", &json!({ "target_version": 1 })).await;
    let (bundles, pointing) = book.with(|held| (std::mem::take(&mut held.bundles), held.pointer.take()));
    assert_eq!(pointing, Some((3, 1)));
    let given = rebuild(&server.state().client(TENANT_A), &book).await.expect("made anew");
    assert_eq!(given, 10);
    assert!(book.with(|held| held.bundles == bundles));
    assert_eq!(book.with(|held| held.pointer), pointing);
}

/// At a word, by an admin of the tenant.
#[tokio::test]
async fn a_mirror_is_rebuilt_by_one_call() {
    let book = Book::default();
    let (_server, user, _agent) = started(Setup::new().mirror(Arc::new(book.clone()))).await;
    publish(&user, "one").await;
    let pointing = book.with(|held| (std::mem::take(&mut held.bundles), held.pointer.take())).1;
    let given = user.post("/v1/config-mirror/rebuild", &json!({})).await.ok();
    assert_eq!(given, json!({ "bundles": 5, "agents": 1 }));
    assert_eq!(book.with(|held| (held.bundles.len(), held.pointer)), (5, pointing));
    book.with(|held| held.fails_pointing = true);
    let refused = user.post("/v1/config-mirror/rebuild", &json!({})).await;
    assert!(refused.text.contains("read-only"), "{}", refused.text);
    refused.problem(503, "mirror_unavailable");
    let (_server, user, _agent) = started(Setup::new()).await;
    user.post("/v1/config-mirror/rebuild", &json!({})).await.problem(404, "not_found");
}

/// One that fetches by itself what it could not take: no publish waits for it, and none says that it has got it.
#[tokio::test]
async fn a_mirror_that_catches_up_by_itself_holds_nobody_up() {
    let book = Book::default();
    book.with(|held| (held.catches_up, held.fails_from, held.fails_pointing) = (true, 3, true));
    let (_server, user, _agent) = started(Setup::new().mirror(Arc::new(book.clone()))).await;
    put_draft(&user, &sound("one")).await;
    let ended = done(&user, "publish", &json!({})).await;
    let note = |name| stage(&ended, name)["note"].as_str().expect("a note").to_owned();
    assert_eq!(note("write_bundles"), "5 bundles are whole; the mirror fetches them when it can: the mirror is away");
    assert_eq!(note("invalidate_cache"), "the mirror fetches the pointer when it can: the mirror is read-only");
    assert_eq!((pointer(&user).await["version"].as_u64(), book.with(|held| held.pointer)), (Some(1), None));
}
