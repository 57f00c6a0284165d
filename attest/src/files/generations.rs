//! Of several generations of the same thing, the one that holds at the time of judgement.
//!
//! ```text
//! certificates of SEV-SNP        of the report's own chip, or of clouds; the closest first
//! Intel's documents, lists     that hold at the time; of these, and else, the latest
//! ```

use std::cmp::Reverse;

use x509_cert::name::Name;

use super::{Files, MAX_PAIRS};
use crate::certificate::{self, Certificate};
use crate::snp::{self, SnpEvidence};
use crate::supply::SignedDocument;
use crate::tdx::{self, Collateral, Document};
use crate::{UnixTime, crl};

const SIGNER: &str = "CN=Intel SGX TCB Signing";

/// Whether something holds, from when, and until when: the greatest is taken.
type Rank = (bool, Option<(UnixTime, UnixTime)>);

fn rank(dates: Option<(UnixTime, UnixTime)>, time: UnixTime) -> Rank {
    let holds = dates.is_some_and(|(from, until)| (from..=until).contains(&time));
    (holds, dates)
}

impl Files {
    /// Every way in which a report can be shown with these certificates, at least one: without any
    /// where there is none of the report's chip, and none of a cloud.
    #[must_use]
    pub fn with_report(&self, report: &[u8], time: UnixTime) -> Vec<SnpEvidence> {
        let decoded = self.certificates.iter().filter_map(|der| {
            let certificate = certificate::decode(der).ok()?;
            Some((der, certificate))
        });
        let decoded: Vec<(&Vec<u8>, Certificate)> = decoded.collect();
        let evidence = |certificates, revocation_lists| SnpEvidence {
            report: report.to_vec(),
            certificates,
            revocation_lists,
        };
        let leaves = decoded.iter().filter_map(|(leaf, certificate)| {
            let closeness = snp::closeness(report, certificate)?;
            let holds = rank(Some(certificate::dates(certificate)), time).0;
            Some(((closeness, holds), leaf, certificate))
        });
        let mut leaves: Vec<_> = leaves.collect();
        leaves.sort_by_key(|(closeness, ..)| Reverse(*closeness));
        let mut found = Vec::new();
        for (_, leaf, certificate) in leaves {
            let above = certificate.tbs_certificate().issuer();
            let mut alone = true;
            for (der, issuer) in &decoded {
                let tbs = issuer.tbs_certificate();
                if tbs.subject() == above && tbs.issuer() != above && found.len() < MAX_PAIRS {
                    let lists = self.lists_by(tbs.issuer(), time);
                    found.push(evidence(vec![leaf.to_vec(), der.to_vec()], lists));
                    alone = false;
                }
            }
            if alone && found.len() < MAX_PAIRS {
                found.push(evidence(vec![leaf.to_vec()], Vec::new()));
            }
        }
        if found.is_empty() {
            found.push(evidence(Vec::new(), Vec::new()));
        }
        found
    }

    /// Of an issuer's lists the one to judge by.
    pub(super) fn lists_by(&self, issuer: &Name, time: UnixTime) -> Vec<Vec<u8>> {
        let by = |der: &&Vec<u8>| {
            crl::decode(der).is_ok_and(|list| &list.tbs_cert_list.issuer == issuer)
        };
        let own = self.lists.iter().filter(by);
        let chosen = own.max_by_key(|der| rank(crl::dates(der), time));
        chosen.cloned().into_iter().collect()
    }

    /// What these files say of the platform that a quote names; empty where they say nothing.
    #[must_use]
    pub fn for_quote(&self, quote: &[u8], time: UnixTime) -> Collateral {
        let model = tdx::named_by(quote).map(|(model, _)| hex::encode(model));
        let fits = |document: &SignedDocument| {
            let text = String::from_utf8_lossy(&document.bytes).to_lowercase();
            let model = model.as_ref().ok();
            model.is_some_and(|model| text.contains(&format!("\"fmspc\":\"{model}\"")))
        };
        let of = |kind| {
            let own = self.documents.iter().filter(|(found, _)| *found == kind);
            let chosen = own.max_by_key(|(_, document)| {
                let dates = tdx::dates(kind, &document.bytes);
                (fits(document), rank(dates, time))
            });
            chosen.map_or_else(Default::default, |(_, document)| {
                (document.bytes.clone(), document.signature.clone())
            })
        };
        let (tcb_info, tcb_info_signature) = of(Document::TcbInfo);
        let (enclave_identity, enclave_identity_signature) = of(Document::EnclaveIdentity);
        let signer = self.signer(&tcb_info, &tcb_info_signature, time);
        let revocation_lists = self.intel_lists(quote, &signer, time);
        Collateral {
            tcb_info,
            tcb_info_signature,
            enclave_identity,
            enclave_identity_signature,
            signer,
            revocation_lists,
        }
    }

    /// The certificate of the key of Intel's documents: of that which signed this one, if it is
    /// there.
    fn signer(&self, document: &[u8], signature: &[u8], time: UnixTime) -> Vec<u8> {
        let signers = self.certificates.iter().filter_map(|der| {
            let one = certificate::decode(der).ok()?;
            let subject = one.tbs_certificate().subject().to_string();
            let is_one = subject.split(',').any(|part| part == SIGNER);
            let signed = tdx::is_signed_by(document, signature, &one);
            let dates = Some(certificate::dates(&one));
            is_one.then_some(((signed, rank(dates, time)), der))
        });
        let chosen = signers.max_by_key(|(rank, _)| *rank);
        chosen.map_or_else(Vec::new, |(_, der)| der.clone())
    }

    /// The lists of the root, which issued the signer's certificate, and of who issued the
    /// platform's.
    fn intel_lists(&self, quote: &[u8], signer: &[u8], time: UnixTime) -> Vec<Vec<u8>> {
        let root = certificate::decode(signer).ok();
        let root = root.map(|signer| signer.tbs_certificate().issuer().clone());
        let issuers = root.into_iter().chain(tdx::pck_issuer(quote));
        let lists = issuers.flat_map(|issuer| self.lists_by(&issuer, time));
        lists.collect()
    }
}
