//! What each stage does.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mainspring_client::{Failure, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{DECISIONS_MAX, Desk, Stop, UPDATED_EVENT, event, run_of};
use crate::publish::bundle::{BundleError, BundleRef, apart};
use crate::publish::check::{self, FINDINGS_MAX, Finding};
use crate::publish::compile::compiled;
use crate::publish::door::{Configs, Hook, check_kind, put_manifest, put_register};
use crate::publish::hook::{self, Made, Said};
use crate::publish::job::{Manifest, StageName};
use crate::publish::mirror::{self, RebuildError, Updated};
use crate::publish::register::{Moved, NotMoved, Register};
use crate::tools::catalogue::{Catalogue, KnownTools};

/// Characters kept of each text of a finding that somebody of the tenant wrote.
const FINDING_CHARS_MAX: usize = 200;

/// What checking gave, for the journal.
#[derive(Debug, Serialize, Deserialize)]
struct Checked {
    findings: Vec<Finding>,
    total: usize,
}

/// What compiling gave, for the journal.
#[derive(Debug, Serialize, Deserialize)]
enum Compiled {
    Bundles(BTreeMap<String, BundleRef>),
    Findings(Vec<Finding>),
}

impl Desk<'_> {
    /// Carries a stage out once, and says what there was to do.
    pub(super) async fn carry_out(&mut self, name: StageName) -> Result<Option<String>, Stop> {
        match name {
            StageName::Accept => Ok(None),
            StageName::Validate => self.validate().await,
            StageName::Compile => self.compile().await,
            StageName::Apply => self.apply().await,
            StageName::WriteBundles => self.write_bundles().await,
            StageName::SwapPointer => self.swap_pointer().await,
            StageName::InvalidateCache => self.invalidate_cache().await,
            StageName::Notify => self.notify().await,
        }
    }

    /// Whoever the agent's settings name for a stage, on record.
    async fn hook_of(&self, stage: StageName) -> Result<Option<Hook>, Failure> {
        let (configs, agent) = (self.configs, &self.job.agent);
        let read = self.ctx.note("settings", || async {
            let (_, settings) = configs.settings(agent).await.map_err(Failure::retryable)?;
            Ok(match stage {
                StageName::Validate => settings.validate,
                StageName::Compile => settings.compile,
                StageName::Apply => settings.apply,
                _ => None,
            })
        });
        read.await
    }

    async fn validate(&mut self) -> Result<Option<String>, Stop> {
        let (configs, job) = (self.configs, &self.job);
        let checked: Checked = self.ctx.run("validate", || built_in(configs, job)).await?;
        if !checked.findings.is_empty() {
            return Err(Stop::Findings(checked.findings, checked.total));
        }
        let Some(hook) = self.hook_of(StageName::Validate).await? else {
            return Ok(Some(format!("{} kinds are sound", self.job.sources.len())));
        };
        let said: Said = self.ask("validate by the tenant", &hook, StageName::Validate).await?;
        refused(said.findings)?;
        Ok(Some(format!("{} kinds are sound, also for {}", self.job.sources.len(), whom(&hook))))
    }

    /// Asks somebody of the tenant.
    async fn ask(&self, step: &str, hook: &Hook, stage: StageName) -> Result<Said, Failure> {
        match &hook.workflow {
            Some(name) => hook::by_workflow(self.ctx, self.configs, name, stage, &self.job).await,
            None => self.ctx.run(step, || hook::by_address(self.configs, hook, stage, &self.job)).await,
        }
    }

    async fn compile(&mut self) -> Result<Option<String>, Stop> {
        let hook = self.hook_of(StageName::Compile).await?;
        let (configs, job) = (self.configs, &self.job);
        // What somebody made may be more than a journal takes, so what is on record is the digests.
        let made: Compiled = match &hook {
            None => self.ctx.run("compile", || by_ourselves(configs, &job.sources)).await?,
            Some(Hook { workflow: Some(name), .. }) => {
                let said = hook::by_workflow(self.ctx, configs, name, StageName::Compile, job).await?;
                self.ctx.run("compile", || stored(configs, &job.sources, said)).await?
            }
            Some(hook) => {
                let step = || async {
                    let said = hook::by_address(configs, hook, StageName::Compile, job).await?;
                    stored(configs, &job.sources, said).await
                };
                self.ctx.run("compile", step).await?
            }
        };
        match made {
            Compiled::Findings(findings) => refused(findings).map(|()| None),
            Compiled::Bundles(bundles) => {
                self.job.bundles = bundles;
                Ok(hook.map(|hook| format!("by {}", whom(&hook))))
            }
        }
    }

    async fn apply(&mut self) -> Result<Option<String>, Stop> {
        let Some(hook) = self.hook_of(StageName::Apply).await? else {
            return Ok(Some("nothing to do: nobody has to prepare anything".to_owned()));
        };
        let said = self.ask("apply", &hook, StageName::Apply).await?;
        refused(said.findings)?;
        Ok(Some(format!("prepared by {}", whom(&hook))))
    }

    /// Reads every bundle back, gives it to the mirror, and names the version.
    async fn write_bundles(&mut self) -> Result<Option<String>, Stop> {
        let (configs, job) = (self.configs, &self.job);
        let bundles = job.bundles.len();
        let note = self.ctx.run("write_bundles", || async {
            match &configs.shared.mirror {
                Some(mirror) => {
                    let (store, mirror) = (configs.bundles(), &**mirror);
                    let put = mirror::put_all(&store, mirror, &job.agent, job.version, &job.bundles);
                    match put.await {
                        Ok(_) => Ok(format!("{bundles} bundles are whole, and mirrored")),
                        Err(RebuildError::Mirror(error)) if mirror.catches_up() => {
                            read_all_back(configs, job).await?;
                            Ok(format!("{bundles} bundles are whole; the mirror fetches them when it can: {error}"))
                        }
                        Err(error) => Err(Failure::retryable(error)),
                    }
                }
                None => {
                    read_all_back(configs, job).await?;
                    Ok(format!("{bundles} bundles are whole; no mirror is configured"))
                }
            }
        });
        let note: String = note.await?;
        if !matches!(self.job.action, crate::publish::Action::Publish { .. }) {
            return Ok(Some(note));
        }
        let manifest = Manifest {
            version: self.job.version,
            digest: Manifest::digest_of(&self.job.bundles),
            bundles: self.job.bundles.clone(),
            sources: self.job.sources.clone(),
            publish_id: self.job.id.clone(),
            by: self.job.by.clone(),
            description: self.job.description.clone(),
            at: self.clock().await?,
            collected_at: None,
        };
        // Written over by a repeat, which says the same: the number is this job's alone.
        let put = put_manifest(&self.job.agent, None, &manifest).map_err(Failure::permanent)?;
        self.save(vec![put], Vec::new(), Vec::new()).await?;
        Ok(Some(note))
    }

    /// Moves the pointer, tells the event, frees the line and starts whoever is next in it: one decision.
    async fn swap_pointer(&mut self) -> Result<Option<String>, Stop> {
        let tenant = self.configs.client().tenant();
        let digest = Manifest::digest_of(&self.job.bundles);
        for _ in 0..DECISIONS_MAX {
            let (at, before) = self.register().await?;
            let now = self.clock().await?;
            let Moved { register, next } = match before.swap(&self.job, &digest, now) {
                Ok(moved) => moved,
                Err(NotMoved::Impossible(text)) => return Err(Stop::Failed(text)),
                Err(NotMoved::Overtaken) => {
                    self.look_again().await?;
                    return Err(Stop::Failed("another took its place, and the pointer is not moved".to_owned()));
                }
            };
            let told = updated(tenant, &self.job.agent, self.job.action.word(), &self.job.id, &register);
            let told = json!(told.ok_or_else(|| Stop::Failed("there is no current version".to_owned()))?);
            let put = put_register(&self.job.agent, at, &register).map_err(Failure::permanent)?;
            let runs = next.iter().map(|next| run_of(next)).collect::<Result<Vec<_>, _>>()?;
            self.job.epoch = Some(register.epoch);
            let version = self.version;
            let saved = self.save(vec![put], runs, vec![event(UPDATED_EVENT, &told)]).await;
            if saved.is_ok() && self.version != version {
                return Ok(Some(format!("epoch {}", register.epoch)));
            }
            self.job.epoch = None;
            saved?;
        }
        Err(Stop::Failed("the register was changed by others each time".to_owned()))
    }

    /// Tells the mirror where the pointer is by now, which may be further on already.
    async fn invalidate_cache(&mut self) -> Result<Option<String>, Stop> {
        let (configs, job) = (self.configs, &self.job);
        let told = self.ctx.run("invalidate_cache", || async {
            let Some(mirror) = &configs.shared.mirror else {
                let text = "nothing to do: no mirror is configured, and turns look at the pointer when they begin";
                return Ok(text.to_owned());
            };
            let (_, register) = configs.register(&job.agent).await.map_err(Failure::retryable)?;
            if let Some(pointer) = mirror::pointer_of(configs.client().tenant(), &job.agent, &register) {
                match mirror.point(&pointer).await {
                    Ok(()) => {}
                    Err(error) if mirror.catches_up() => {
                        return Ok(format!("the mirror fetches the pointer when it can: {error}"));
                    }
                    Err(error) => return Err(Failure::retryable(error)),
                }
            }
            Ok("the mirror has the pointer".to_owned())
        });
        Ok(Some(told.await?))
    }

    async fn notify(&mut self) -> Result<Option<String>, Stop> {
        let (configs, job) = (self.configs, &self.job);
        let told = self.ctx.run("notify", || async {
            let Some(mirror) = &configs.shared.mirror else {
                return Ok("told by the event config.updated, in the decision that moved the pointer".to_owned());
            };
            let (_, register) = configs.register(&job.agent).await.map_err(Failure::retryable)?;
            let tenant = configs.client().tenant();
            if let Some(told) = updated(tenant, &job.agent, job.action.word(), &job.id, &register) {
                match mirror.notify(&told).await {
                    Ok(()) => {}
                    Err(error) if mirror.catches_up() => {
                        return Ok(format!(
                            "told by the event config.updated; the mirror tells it when it can: {error}"
                        ));
                    }
                    Err(error) => return Err(Failure::retryable(error)),
                }
            }
            Ok("told by the event config.updated, and by the mirror".to_owned())
        });
        Ok(Some(told.await?))
    }
}

/// What is told of a register that has just changed.
fn updated(tenant: TenantId, agent: &str, action: &str, publish_id: &str, register: &Register) -> Option<Updated> {
    let pointer = register.pointer.as_ref()?;
    Some(Updated {
        tenant_id: tenant.to_string(),
        agent_id: agent.to_owned(),
        version: pointer.version,
        epoch: register.epoch,
        action: action.to_owned(),
        canary_version: register.canary.as_ref().map(|canary| canary.version),
        publish_id: publish_id.to_owned(),
        reason: pointer.reason.clone(),
    })
}

fn whom(hook: &Hook) -> String {
    match (&hook.workflow, &hook.url) {
        (Some(name), _) => format!("workflow {name:?}"),
        (None, Some(url)) => url.clone(),
        (None, None) => "nobody".to_owned(),
    }
}

/// Somebody of the tenant found something.
fn refused(mut findings: Vec<Finding>) -> Result<(), Stop> {
    let total = findings.len();
    findings.truncate(FINDINGS_MAX);
    // All of them stand in one document, whatever their author wrote.
    for text in findings.iter_mut().flat_map(|one| [&mut one.kind, &mut one.path, &mut one.message]) {
        *text = text.chars().take(FINDING_CHARS_MAX).collect();
    }
    if total == 0 { Ok(()) } else { Err(Stop::Findings(findings, total)) }
}

async fn read_back(configs: &Configs, one: &BundleRef) -> Result<Bytes, Failure> {
    match configs.bundles().get(&one.digest).await {
        Ok(Some(content)) => Ok(content),
        Ok(None) => Err(Failure::Final(format!("{} is not stored any more: put the draft again", one.digest))),
        Err(error @ BundleError::Damaged { .. }) => Err(Failure::Final(error.to_string())),
        Err(error) => Err(Failure::retryable(error)),
    }
}

async fn read_all_back(configs: &Configs, job: &crate::publish::Job) -> Result<(), Failure> {
    for one in job.bundles.values() {
        read_back(configs, one).await?;
    }
    Ok(())
}

/// The checks that are built in, and the schemas of the agent's settings.
async fn built_in(configs: &Configs, job: &crate::publish::Job) -> Result<Checked, Failure> {
    let (_, settings) = configs.settings(&job.agent).await.map_err(Failure::retryable)?;
    let catalogue = Catalogue::new(configs.client().clone(), KnownTools::default());
    let tools = catalogue.tools().await.map_err(Failure::retryable)?;
    let names: BTreeSet<String> = tools.into_iter().map(|entry| entry.tool.name).collect();
    let mut texts = BTreeMap::new();
    for (kind, one) in &job.sources {
        texts.insert(kind.clone(), read_back(configs, one).await?);
    }
    let (findings, total) = apart(move || check::findings(&texts, &settings.schemas, &names)).await;
    Ok(Checked { findings, total })
}

async fn by_ourselves(configs: &Configs, sources: &BTreeMap<String, BundleRef>) -> Result<Compiled, Failure> {
    let mut bundles = BTreeMap::new();
    for (kind, one) in sources {
        let text = read_back(configs, one).await?;
        let of = kind.clone();
        let made = apart(move || compiled(&of, &text)).await.map_err(Failure::Final)?;
        bundles.insert(kind.clone(), store(configs, made).await?);
    }
    Ok(Compiled::Bundles(bundles))
}

/// Stores what somebody of the tenant made. Kinds they leave out are compiled as if nobody had been asked.
async fn stored(configs: &Configs, sources: &BTreeMap<String, BundleRef>, said: Said) -> Result<Compiled, Failure> {
    if !said.findings.is_empty() {
        return Ok(Compiled::Findings(said.findings));
    }
    let left: BTreeMap<String, BundleRef> = sources
        .iter()
        .filter(|(kind, _)| !said.bundles.contains_key(*kind))
        .map(|(kind, one)| (kind.clone(), one.clone()))
        .collect();
    let Compiled::Bundles(mut bundles) = by_ourselves(configs, &left).await? else {
        unreachable!("what is compiled here has no findings")
    };
    for (kind, made) in said.bundles {
        check_kind(&kind).map_err(Failure::permanent)?;
        let content = match made {
            Made::Content(content) => Bytes::from(content.get().to_owned()),
            Made::Digest(digest) => match configs.bundles().get(&digest).await {
                Ok(Some(content)) => content,
                Ok(None) => return Err(Failure::Final(format!("{kind}: nothing is stored as {digest}: put it first"))),
                Err(error) => return Err(Failure::retryable(error)),
            },
        };
        bundles.insert(kind, store(configs, content).await?);
    }
    Ok(Compiled::Bundles(bundles))
}

async fn store(configs: &Configs, content: Bytes) -> Result<BundleRef, Failure> {
    configs.bundles().put(content).await.map_err(|error| match error {
        BundleError::TooLarge { .. } => Failure::Final(error.to_string()),
        other => Failure::retryable(other),
    })
}
