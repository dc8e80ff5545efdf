//! Agents and channels outside the deployment: slow, gone, saying no, or having done what they did not answer to.

use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mainspring_client::{Failure, RunId};
use mainspring_flows::agent::AgentError;
use mainspring_flows::deliver::Delivery;
use mainspring_flows::outside::Calling;
use mainspring_flows::{AgentAnswer, AgentRequest, Outside, SessionKey, Voice};

use crate::books::marker;
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

/// What an agent answers in a turn.
pub fn answer_to(session: &str, turn: &str) -> AgentAnswer {
    let tenant = SessionKey::parse(session).map_or(0, |session| session.tenant.0);
    AgentAnswer { text: format!("{} answer to {turn}", marker(tenant)), data: None }
}

/// Tells the books what an agent is asked.
pub fn note_asked(host: &Host, request: &AgentRequest) {
    let Ok(turn) = request.turn_id.parse::<RunId>() else { return };
    let texts = request.messages.iter().map(|message| message.text.clone()).collect();
    host.sim().trace(format_args!("agent asked in turn {} with {} messages", request.turn_id, request.messages.len()));
    host.sim().lock().books.agent_asked(turn.0, texts);
}

impl Outside for SimOutside {
    fn ask<'a>(
        &'a self,
        _: &'a str,
        request: &'a AgentRequest,
        _: &'a Voice,
    ) -> Calling<'a, Result<AgentAnswer, AgentError>> {
        Box::pin(async move {
            let mut chance = self.fork();
            note_asked(&self.host, request);
            let fails = self.host.sim().plan().outside_fails;
            let work = async {
                self.wait(&mut chance, 400).await;
                if chance.permille(fails) {
                    self.wait(&mut chance, 4_000).await;
                }
                if chance.permille(fails) {
                    let error = "simulated: the agent said no".to_owned();
                    let hopeless = chance.permille(200);
                    return Err(if hopeless { AgentError::Final(error) } else { AgentError::Retryable(error) });
                }
                if let Ok(turn) = request.turn_id.parse::<RunId>() {
                    self.host.sim().lock().books.agent_answered(turn.0);
                }
                Ok(answer_to(&request.session, &request.turn_id))
            };
            let timeout = Duration::from_millis(request.timeout_ms);
            let late = || Err(AgentError::Retryable("simulated: the agent was too slow".to_owned()));
            tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| late())
        })
    }

    fn deliver<'a>(&'a self, delivery: &'a Delivery) -> Calling<'a, Result<u16, Failure>> {
        Box::pin(async move {
            let mut chance = self.fork();
            let fails = self.host.sim().plan().outside_fails;
            self.wait(&mut chance, 50).await;
            if chance.permille(fails) {
                return Err(Failure::retryable("simulated: the channel is down"));
            }
            let Delivery { reply_id, turn_id, session, text, .. } = delivery;
            self.host.sim().trace(format_args!("reply {reply_id} arrives"));
            match turn_id.parse::<RunId>() {
                Ok(turn) => self.host.sim().lock().books.delivered(turn.0, reply_id, session, text),
                Err(_) => self.host.sim().violated(format!("a reply names the turn {turn_id:?}")),
            }
            self.wait(&mut chance, 50).await;
            if chance.permille(fails) {
                return Err(Failure::retryable("simulated: the channel's answer was lost"));
            }
            Ok(200)
        })
    }
}
