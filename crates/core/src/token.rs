//! API tokens as the core knows them: that they exist, and whether they were revoked. Signing happens elsewhere.

use alloc::string::String;
use alloc::vec::Vec;

use crate::effect::Effect;
use crate::id::{Ms, TokenId};
use crate::machine::Step;
use crate::reply::{Refusal, Reply};
use crate::row::{self, TokenRow};
use crate::write::Table;

impl Step<'_> {
    pub(crate) fn put_token(
        &mut self,
        token: TokenId,
        name: String,
        scopes: Vec<String>,
        expires_at: Ms,
    ) -> Result<Reply, Refusal> {
        self.check_label("the token's name", &name)?;
        self.check_bulk("the list of scopes", scopes.iter().map(|scope| scope.len() + 16).sum())?;
        let now = self.now;
        if self.t.tokens.get(&token).is_some_and(|row| row.expires_at > now) {
            return Ok(Reply::Done);
        }
        // Tokens that ended by themselves need no memory: their own expiry refuses them.
        self.t.tokens.retain(|_, row| row.expires_at > now);
        if self.t.tokens.len() >= self.limits.tokens_max {
            return Err(Refusal::Full {
                what: "tokens of this tenant",
                max: self.limits.tokens_max,
                action: "let some expire, or use one token for several workers",
            });
        }
        let row = TokenRow { name, scopes, created_at: now, expires_at, revoked_at: None };
        self.out.put(Table::Token, &row::key::token(self.tenant, token), &row);
        self.t.tokens.insert(token, row);
        Ok(Reply::Done)
    }

    pub(crate) fn revoke_token(&mut self, token: TokenId) -> Result<Reply, Refusal> {
        let now = self.now;
        let row = self.t.tokens.get_mut(&token).filter(|row| row.expires_at > now).ok_or(Refusal::NoToken)?;
        if row.revoked_at.is_none() {
            row.revoked_at = Some(now);
            self.out.put(Table::Token, &row::key::token(self.tenant, token), row);
        }
        self.out.effect(Effect::TokenRevoked { tenant: self.tenant, token });
        Ok(Reply::Done)
    }
}
