//! Revoked tokens in the file.
//!
//! Invariant: the rows are written with the first save after a change. They stand outside the seal, because a file without
//! them is whole as well, and they hold in any epoch. The file names tenants, never their numbers.

use redb::{ReadTransaction, WriteTransaction};
use tickgate_protocol::channel::{Tenant, TenantNames};

use super::Error;
use super::layout::{LAYOUT, LAYOUT_PLAIN, REVOCATION, Sum};
use crate::auth::{Revocation, RevokedTokens};

/// A revocation with the name of its tenant, which is empty for the default one.
pub(super) type Stored = (Box<str>, Revocation);

const WITH_ID: u8 = 0;
const OF_USER: u8 = 1;

/// A revocation of a row.
pub(super) fn of_row((tenant, kind, name): (&str, u8, &str), row: (u64, u64)) -> Result<Stored, Error> {
    let (until_unix_ms, issued_before_ms) = row;
    let tokens = match kind {
        WITH_ID => RevokedTokens::WithId(name.into()),
        OF_USER => RevokedTokens::OfUser {
            user: name.into(),
            issued_before_ms,
        },
        _ => return Err(Error::damaged("a revocation is invalid")),
    };
    let revocation = Revocation {
        tenant: Tenant::DEFAULT,
        tokens,
        until_unix_ms,
    };
    Ok((tenant.into(), revocation))
}

/// Replaces the rows of the file.
pub(super) fn write<'r>(
    transaction: &WriteTransaction,
    revocations: impl Iterator<Item = (&'r str, &'r Revocation)>,
) -> Result<(), Error> {
    transaction.delete_table(REVOCATION.checked())?;
    let mut table = transaction.open_table(REVOCATION.checked())?;
    for (tenant, revocation) in revocations {
        let (kind, name, issued_before_ms) = match &revocation.tokens {
            RevokedTokens::WithId(id) => (WITH_ID, id, 0),
            RevokedTokens::OfUser { user, issued_before_ms } => (OF_USER, user, *issued_before_ms),
        };
        let row = (revocation.until_unix_ms, issued_before_ms);
        REVOCATION.insert(&mut table, (tenant, kind, &**name), row)?;
    }
    Ok(())
}

/// Reads the rows of the file.
pub(super) fn read(transaction: &ReadTransaction, layout: u64) -> Result<Vec<Stored>, Error> {
    let mut revocations = Vec::new();
    if layout == LAYOUT_PLAIN {
        return Ok(revocations);
    }
    REVOCATION.read(transaction, LAYOUT, &mut Sum::default(), |_, key, row| {
        revocations.push(of_row(key, row)?);
        Ok(())
    })?;
    Ok(revocations)
}

/// The name of a tenant in the file.
pub(super) fn name(tenants: &TenantNames, tenant: Tenant) -> &str {
    tenants.of(tenant).unwrap_or_default()
}
