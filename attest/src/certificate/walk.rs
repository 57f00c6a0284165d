//! The way from a leaf up to a root of the policy, for chains of one signature scheme whose root is
//! not shown.

use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};

use super::{
    Certificate, ChainError, ChainFault, Position, Scheme, TrustAnchor, check_authority,
    check_common, check_issued_by, decode, extension, find_root,
};
use crate::UnixTime;

/// A chain that leads to a root of the policy.
pub(crate) struct Walked<'a, T> {
    /// The certificates, leaf first.
    pub(crate) certificates: Vec<Certificate>,
    /// The root.
    pub(crate) root: &'a TrustAnchor,
    /// What the leaf says.
    pub(crate) leaf: T,
}

/// Verifies `certificates`, leaf first, up to one of `roots`, at the time `now`. The leaf signs
/// something, is no authority, and is what `check_leaf` demands.
pub(crate) fn walk<'a, T>(
    certificates: &[Vec<u8>],
    roots: &'a [TrustAnchor],
    scheme: Scheme,
    now: UnixTime,
    check_leaf: impl Fn(&Certificate) -> Result<T, ChainFault>,
) -> Result<Walked<'a, T>, ChainError> {
    let mut chain = Vec::with_capacity(certificates.len());
    for (index, der) in certificates.iter().enumerate() {
        chain.push(decode(der).map_err(|fault| fault.at(Position::of(index)))?);
    }
    let at_leaf = |fault: ChainFault| fault.at(Position::Leaf);
    let first = chain.first().ok_or(at_leaf(ChainFault::Missing))?;
    check_signing_leaf(first, now).map_err(at_leaf)?;
    let leaf = check_leaf(first).map_err(at_leaf)?;
    for (index, pair) in chain.windows(2).enumerate() {
        let [subject, issuer] = pair else { continue };
        check_authority(issuer, index, now).map_err(|fault| fault.at(Position::of(index + 1)))?;
        check_issued_by(subject, issuer, scheme).map_err(|fault| fault.at(Position::of(index)))?;
    }
    let (last, place) = (chain.last().unwrap_or(first), chain.len() - 1);
    let root = find_root(last, roots, scheme).map_err(|fault| fault.at(Position::of(place)))?;
    check_authority(root.certificate(), place, now).map_err(|fault| fault.at(Position::Root))?;
    Ok(Walked {
        certificates: chain,
        root,
        leaf,
    })
}

fn check_signing_leaf(leaf: &Certificate, now: UnixTime) -> Result<(), ChainFault> {
    check_common(leaf, now)?;
    if extension::<BasicConstraints>(leaf)?.is_some_and(|constraints| constraints.ca) {
        return Err(ChainFault::Authority);
    }
    match extension::<KeyUsage>(leaf)? {
        Some(usage) if usage.digital_signature() => Ok(()),
        _ => Err(ChainFault::KeyUsage {
            needed: "digitalSignature",
        }),
    }
}
