//! Agents and channels outside the deployment: slow, gone, saying no, or having done what they did not answer to.

use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mainspring_client::{Client, RunId};
use mainspring_flows::agent::{AgentError, DecideRequest, StopNotice};
use mainspring_flows::attempt::{Made, Said};
use mainspring_flows::deliver::{Delivery, Posted};
use mainspring_flows::outside::{Address, Calling};
use mainspring_flows::receipts::{self, DeliveryStatus, Receipt};
use mainspring_flows::{AgentAnswer, AgentRequest, Decision, Outside, SessionKey, Voice};

use crate::agents;
use crate::books::Segment;
use crate::chance::Chance;
use crate::host::Host;
use crate::pump::Process;

/// What the functions of one process see of the world.
pub struct SimOutside {
    host: Host,
    process: Arc<Process>,
    chance: Mutex<Chance>,
}

impl SimOutside {
    /// The world as this process sees it.
    pub fn new(host: Host, process: Arc<Process>) -> SimOutside {
        let chance = Mutex::new(host.sim().fork());
        SimOutside { host, process, chance }
    }

    fn fork(&self) -> Chance {
        self.chance.lock().unwrap_or_else(PoisonError::into_inner).fork()
    }

    /// Lets time pass. A process that has ended never comes back from it.
    async fn wait(&self, chance: &mut Chance, ms_max: u64) {
        self.host.sim().pause(chance, ms_max).await;
        if self.process.has_ended() {
            std::future::pending::<()>().await;
        }
    }
}

impl Outside for SimOutside {
    fn ask<'a>(
        &'a self,
        _: Address<'a>,
        request: &'a AgentRequest,
        _: &'a Voice,
    ) -> Calling<'a, Result<AgentAnswer, AgentError>> {
        Box::pin(async move {
            let mut chance = self.fork();
            self.wait(&mut chance, 0).await;
            let fails = self.host.sim().plan().outside_fails;
            let work = async {
                // It goes on also when nobody waits for its answer any more.
                let answer = tokio::spawn(agents::work(self.host.clone(), request.clone(), chance.fork()));
                if chance.permille(fails) {
                    self.wait(&mut chance, 4_000).await;
                }
                let answer = answer.await.unwrap_or_else(|_| Err(AgentError::Final("it panicked".to_owned())));
                self.wait(&mut chance, 0).await;
                if chance.permille(fails) {
                    let error = "simulated: the agent said no".to_owned();
                    let hopeless = chance.permille(200);
                    return Err(if hopeless { AgentError::Final(error) } else { AgentError::Retryable(error) });
                }
                answer
            };
            let timeout = Duration::from_millis(request.timeout_ms);
            let late = || Err(AgentError::Retryable("simulated: the agent was too slow".to_owned()));
            tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| late())
        })
    }

    fn decide<'a>(&'a self, _: Address<'a>, request: &'a DecideRequest) -> Calling<'a, Result<Decision, AgentError>> {
        Box::pin(async move {
            let mut chance = self.fork();
            self.wait(&mut chance, 100).await;
            if chance.permille(self.host.sim().plan().outside_fails) {
                return Err(AgentError::Retryable("simulated: the agent did not decide".to_owned()));
            }
            Ok(Decision::new(*chance.pick(&request.allowed), "simulated"))
        })
    }

    fn stop<'a>(&'a self, _: Address<'a>, _: &'a StopNotice) -> Calling<'a, ()> {
        Box::pin(async {})
    }

    fn deliver<'a>(&'a self, _: Address<'a>, delivery: &'a Delivery) -> Calling<'a, Posted> {
        Box::pin(async move {
            let mut chance = self.fork();
            let fails = self.host.sim().plan().outside_fails;
            self.wait(&mut chance, 50).await;
            if chance.permille(fails) {
                return posted(Said::Nothing, Some("simulated: the channel is down"), None);
            }
            let Delivery { reply_id: id, turn_id, session, text, segment, segments, .. } = delivery;
            self.host.sim().trace(format_args!("reply {id} arrives"));
            let place = (*segment, *segments);
            match turn_id.parse::<RunId>() {
                Ok(turn) => {
                    let segment = Segment { turn: turn.0, id, session, place, text };
                    self.host.sim().lock().books.delivered(segment);
                    tokio::spawn(tell_receipts(self.host.clone(), delivery.clone(), chance.fork()));
                }
                Err(_) => self.host.sim().violated(format!("a reply names the turn {turn_id:?}")),
            }
            self.wait(&mut chance, 50).await;
            if chance.permille(fails) {
                return posted(Said::Nothing, Some("simulated: the channel's answer was lost"), None);
            }
            posted(Said::Status(200, None), None, Some(provider_id(delivery)))
        })
    }
}

fn posted(said: Said, error: Option<&str>, provider_message_id: Option<String>) -> Posted {
    Posted { said, made: Made { error: error.map(str::to_owned), ..Made::default() }, provider_message_id }
}

fn provider_id(delivery: &Delivery) -> String {
    format!("provider {}", delivery.reply_id)
}

/// What a channel's provider tells about a segment later: in any order, twice, some of it never.
async fn tell_receipts(host: Host, delivery: Delivery, mut chance: Chance) {
    let Some(tenant) = SessionKey::parse(&delivery.session).map(|session| session.tenant) else { return };
    for _ in 0..chance.below(host.sim().plan().receipts + 1) {
        host.sim().pause(&mut chance, 800).await;
        let statuses = [DeliveryStatus::Sent, DeliveryStatus::Delivered, DeliveryStatus::Read, DeliveryStatus::Failed];
        let receipt = Receipt {
            reply_id: delivery.reply_id.clone(),
            status: *chance.pick(&statuses),
            provider_message_id: Some(provider_id(&delivery)),
            error: None,
        };
        let Some(process) = host.current() else { continue };
        let client = Client::new(process.engine.clone(), tenant);
        let taken = tokio::select! {
            biased;
            () = process.ended.wait() => continue,
            taken = receipts::take(&client, &delivery.session, &delivery.turn_id, &receipt) => taken,
        };
        if let Ok(false) = taken {
            host.sim().sometimes("a receipt said nothing new");
        }
    }
}
