//! What a keyed request led to never changes while its key is remembered.

use std::collections::BTreeMap;

use super::facts::Request;

#[derive(Debug, Default)]
pub(crate) struct Requests {
    led_to: BTreeMap<(u128, String), (Option<u128>, u128)>,
}

impl Requests {
    pub(super) fn enter(&mut self, request: Request, violations: &mut Vec<String>) {
        let Request { tenant, name, led_to } = request;
        // No key is used again after it was forgotten, so a second record is a second piece of work under one key.
        if let Some(before) = self.led_to.insert((tenant, name.clone()), led_to) {
            violations.push(format!("request {name:?} of tenant {tenant} led to {before:x?} and to {led_to:x?}"));
        }
    }
}
