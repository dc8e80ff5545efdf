//! Waiting for the end of a run: of any, or of one that is started by the same call.
//!
//! Whoever starts a run and waits for it has no use for the answer in between. So the wait is left with the hub by the
//! engine's thread, in the moment in which the start is answered and before any effect of its batch is out: nothing can
//! end unnoticed, nobody is woken twice, and nothing is read before there is something to read.

use std::time::Duration;

use mainspring_core::row::RunRow;
use mainspring_core::{Command, Refusal, Reply, RunId, Start, TenantId};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use crate::decider::Answer;
use crate::engine::Engine;
use crate::hub::Hub;
use crate::partition::EngineError;

/// The notice is a hint; this is how long one that got lost delays the answer. None gets lost inside one process, and
/// many may wait.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

impl Engine {
    /// Waits until a run has ended, and gives its row.
    ///
    /// # Errors
    /// [`EngineError::Refused`] if there is no such run; [`EngineError::Unreadable`].
    pub async fn wait_run(&self, tenant: TenantId, run: RunId) -> Result<RunRow, EngineError> {
        let _waits = RunWait { hub: self.hub(), tenant, run };
        loop {
            let ended = self.hub().run_ended(tenant, run);
            match self.run(tenant, run).await? {
                Some(row) if row.state.ended() => return Ok(row),
                Some(_) => {}
                None => return Err(EngineError::Refused(Refusal::NoRun { run })),
            }
            let _ = timeout(LOOK_AGAIN, ended).await;
        }
    }

    /// Starts a run and waits for its end, for so long after it was asked for. The start is durable when this returns;
    /// with the row, so is the end. Given up early, it ends nothing but the wait.
    ///
    /// # Errors
    /// As [`Engine::submit`] and [`Engine::wait_run`]. With [`EngineError::Unreadable`] the run may have been started:
    /// ask again with the same idempotency key.
    pub async fn start_and_wait(
        &self,
        tenant: TenantId,
        start: Start,
        patience: Duration,
    ) -> Result<(RunId, Option<RunRow>), EngineError> {
        let until = Instant::now() + patience;
        let (starting, started) = oneshot::channel();
        let (ending, ended) = oneshot::channel();
        let hub = self.shared_hub();
        let respond = move |answer| begun(&hub, tenant, answer, starting, ending);
        self.submit_with(tenant, Command::StartRun { start }, Box::new(respond));
        let mut waits = Begun { hub: self.hub(), tenant, started, ended };

        let woken = timeout_at(until, &mut waits.ended).await;
        // There by now, unless the time was up before the start was durable.
        let answer = (&mut waits.started).await.unwrap_or(Err(EngineError::ShuttingDown));
        let run = match answer?.0 {
            Reply::Started { run, .. } => run,
            other => unreachable!("a start is answered with the run, not {other:?}"),
        };
        if matches!(woken, Ok(Ok(()))) {
            // Told of its end: nothing of this wait is left with the hub.
            if let Some(row) = self.run(tenant, run).await?.filter(|row| row.state.ended()) {
                return Ok((run, Some(row)));
            }
        } else {
            waits.ended.close();
            self.hub().forget_run_wait(tenant, run);
        }
        // The run of an earlier request, or one whose end nobody is left to tell.
        match timeout_at(until, self.wait_run(tenant, run)).await {
            Ok(row) => Ok((run, Some(row?))),
            Err(_) => Ok((run, None)),
        }
    }
}

/// A start was answered: leaves the wait for the run's end with the hub. Runs on the engine's thread.
fn begun(hub: &Hub, tenant: TenantId, answer: Answer, starting: oneshot::Sender<Answer>, ending: oneshot::Sender<()>) {
    // One of an earlier request may have ended long ago: then nobody would ever be woken.
    let run = match &answer {
        Ok((Reply::Started { run, duplicate: false }, _)) => Some(*run),
        _ => None,
    };
    if let Some(run) = run {
        hub.wake_at_end(tenant, run, ending);
    }
    // Nobody looks at this one before the other wakes them, so it wakes nobody.
    if starting.send(answer).is_err()
        && let Some(run) = run
    {
        // Gone before it knew the run.
        hub.forget_run_wait(tenant, run);
    }
}

/// A start that is waited for. Dropped before it is known what was started, it finds out, and takes the wait back.
struct Begun<'a> {
    hub: &'a Hub,
    tenant: TenantId,
    started: oneshot::Receiver<Answer>,
    ended: oneshot::Receiver<()>,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.ended.close();
        // From here on the engine's thread learns that nobody is there.
        self.started.close();
        if let Ok(Ok((Reply::Started { run, .. }, _))) = self.started.try_recv() {
            self.hub.forget_run_wait(self.tenant, run);
        }
    }
}

/// Takes back what a wait for a run has left with the hub, however the wait ends.
struct RunWait<'a> {
    hub: &'a Hub,
    tenant: TenantId,
    run: RunId,
}

impl Drop for RunWait<'_> {
    fn drop(&mut self) {
        self.hub.forget_run_wait(self.tenant, self.run);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use mainspring_core::command::Idempotency;
    use mainspring_core::row::RunState;
    use mainspring_core::workflow::WorkflowDef;

    use super::*;
    use crate::EngineOptions;

    const TENANT: TenantId = TenantId(1);
    /// Longer than any of these waits.
    const LONG: Duration = Duration::from_secs(600);

    /// An engine with a workflow that nobody works on: what ends its runs is that they are cancelled.
    async fn engine() -> (Engine, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = Engine::open(&EngineOptions::new(dir.path())).expect("an engine");
        engine.submit(TENANT, Command::PutTenant { name: "tenant".to_owned() }).await.expect("a tenant");
        let def = WorkflowDef::single("idle", false);
        engine.submit(TENANT, Command::PutWorkflow { def }).await.expect("a workflow");
        (engine, dir)
    }

    fn start(key: Option<&str>) -> Start {
        let idempotency = key.map(|key| Idempotency { key: key.to_owned(), body: 1 });
        Start { workflow: "idle".to_owned(), input: "{}".into(), idempotency, ..Start::default() }
    }

    async fn cancel(engine: &Engine, run: RunId) {
        let reason = "enough".to_owned();
        engine.submit(TENANT, Command::CancelRun { run, reason }).await.expect("cancelled");
    }

    /// The run that was started first.
    async fn first_run(engine: &Engine) -> RunId {
        loop {
            let position = engine.durable_position(TENANT);
            engine.wait_applied(TENANT, position, LONG).await;
            let page = engine.read(TENANT, |reader| reader.runs(TENANT, &crate::RunFilter::default(), None, 10)).await;
            if let Some((run, _)) = page.expect("readable").rows.first() {
                return *run;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_starts_a_run_and_waits_is_told_of_its_end() {
        let (engine, _dir) = engine().await;
        let waiting = tokio::spawn({
            let engine = engine.clone();
            async move { engine.start_and_wait(TENANT, start(Some("key")), LONG).await }
        });
        let run = first_run(&engine).await;
        assert_eq!(engine.hub().runs_waited_for(), 1);
        cancel(&engine, run).await;
        let (started, row) = waiting.await.expect("no panic").expect("started");
        assert_eq!((started, row.map(|row| row.state)), (run, Some(RunState::Cancelled)));
        assert_eq!(engine.hub().runs_waited_for(), 0);

        // Asked again, when nothing will ever tell of its end any more.
        let again = engine.start_and_wait(TENANT, start(Some("key")), LONG).await.expect("the same run");
        assert_eq!((again.0, again.1.map(|row| row.state)), (run, Some(RunState::Cancelled)));
        engine.shut_down();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_wait_that_ends_first_ends_alone() {
        let (engine, _dir) = engine().await;
        let (run, row) = engine.start_and_wait(TENANT, start(None), Duration::ZERO).await.expect("started");
        assert!(row.is_none());
        let live = engine.run(TENANT, run).await.expect("readable").expect("durable when it was answered");
        assert!(!live.state.ended());
        assert_eq!(engine.hub().runs_waited_for(), 0);
        let none = Start { workflow: "none".to_owned(), ..start(None) };
        let refused = engine.start_and_wait(TENANT, none, LONG).await;
        assert!(matches!(refused, Err(EngineError::Refused(Refusal::NoWorkflow { .. }))), "{refused:?}");
        engine.shut_down();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_goes_away_leaves_nothing_behind() {
        let (engine, _dir) = engine().await;
        // Asked, and gone at some point before the start was answered, or just after.
        for pause_us in (0..2_000).step_by(50) {
            let mut waiting = Box::pin(engine.start_and_wait(TENANT, start(None), LONG));
            assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            std::thread::sleep(Duration::from_micros(pause_us));
            drop(waiting);
        }
        // By the answer to this, those before are answered.
        engine.submit(TENANT, Command::Count).await.expect("counted");
        assert_eq!(engine.hub().runs_waited_for(), 0);
        // And one that was told that its run is there.
        let waiting = tokio::spawn({
            let engine = engine.clone();
            async move { engine.start_and_wait(TENANT, start(None), LONG).await }
        });
        while engine.hub().runs_waited_for() == 0 {
            tokio::task::yield_now().await;
        }
        waiting.abort();
        assert!(waiting.await.is_err_and(|error| error.is_cancelled()));
        assert_eq!(engine.hub().runs_waited_for(), 0);
        engine.shut_down();
    }
}
