//! Where a task may run: kinds of slots, labels of workers, wishes for them. Which worker it is given to is decided here.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::id::WorkerId;
use crate::rate::RateUse;
use crate::worker::Worker;

/// The kind of slot a task takes that says nothing else.
pub const SLOT: &str = "default";

/// The value of a worker's label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LabelValue {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// How a worker's label is compared with the value wished for: the worker's stands left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Comparator {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// A wish for a label of the worker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LabelWish {
    /// What the label is compared with.
    pub value: LabelValue,
    /// How.
    pub comparator: Comparator,
    /// Whether a worker that does not fulfil it is out.
    pub required: bool,
    /// What it counts for a worker that fulfils it, if it is not required.
    pub weight: i32,
}

impl LabelWish {
    /// Whether a label fulfils the wish. Texts and numbers have no order between them.
    pub fn fulfilled_by(&self, label: Option<&LabelValue>) -> bool {
        let Some(label) = label else { return false };
        let order = match (label, &self.value) {
            (LabelValue::Text(a), LabelValue::Text(b)) => Some(a.cmp(b)),
            (LabelValue::Number(a), LabelValue::Number(b)) => Some(a.cmp(b)),
            (LabelValue::Text(_), LabelValue::Number(_)) | (LabelValue::Number(_), LabelValue::Text(_)) => None,
        };
        match self.comparator {
            Comparator::Equal => order.is_some_and(|order| order.is_eq()),
            Comparator::NotEqual => order.is_none_or(|order| order.is_ne()),
            Comparator::Greater => order.is_some_and(|order| order.is_gt()),
            Comparator::GreaterOrEqual => order.is_some_and(|order| order.is_ge()),
            Comparator::Less => order.is_some_and(|order| order.is_lt()),
            Comparator::LessOrEqual => order.is_some_and(|order| order.is_le()),
        }
    }
}

/// Everything that bears on which worker a task may be given to, and when. Tasks of one action that want the same are
/// equally hard to place, so they wait in one line: if its first can't be placed, nobody behind it can.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wants {
    pub(crate) slots: BTreeMap<String, u32>,
    pub(crate) labels: BTreeMap<String, LabelWish>,
    /// One worker, and whether it is that or none.
    pub(crate) worker: Option<(WorkerId, bool)>,
    pub(crate) rates: Vec<RateUse>,
}

impl Wants {
    /// How well a worker with room suits: whether it is the one wished for, and the weight of the wishes it fulfils.
    /// `None` for one that is out.
    pub(crate) fn rank(&self, id: WorkerId, worker: &Worker) -> Option<(bool, i64)> {
        let wished = self.worker.is_some_and(|(wished, _)| wished == id);
        if self.worker.is_some_and(|(_, or_none)| or_none) && !wished {
            return None;
        }
        let mut weight = 0;
        for (name, wish) in &self.labels {
            match wish.fulfilled_by(worker.labels.get(name)) {
                true if !wish.required => weight += i64::from(wish.weight),
                true => {}
                false if wish.required => return None,
                false => {}
            }
        }
        Some((wished, weight))
    }
}
