//! What a step sends, in one copy: tokens, plans, and how to choose.

use zeroize::Zeroize;

use crate::launch::{Choice, Entry};
use crate::{Device, DeviceError, Draft, Plan, Tensor};

/// Parts begin at multiples of 16 bytes.
const ALIGNED: usize = 4;

/// Where a part of a parcel lies, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    first: usize,
    len: usize,
}

/// The parts, one after the other. Content is zeroed when it is cleared or dropped.
#[derive(Debug, Default)]
pub struct Parcel {
    words: Vec<u32>,
}

impl Parcel {
    /// Room for so many words: what grows beyond it leaves copies behind.
    pub fn with_capacity(words: usize) -> Self {
        Self {
            words: Vec::with_capacity(words),
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.words.zeroize();
    }

    /// Words so far.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Adds some words.
    pub fn words(&mut self, words: impl IntoIterator<Item = u32>) -> Place {
        let padded = self.words.len().next_multiple_of(ALIGNED);
        self.words.resize(padded, 0);
        self.words.extend(words);
        Place {
            first: padded,
            len: self.words.len() - padded,
        }
    }

    /// Adds a plan.
    pub fn plan(&mut self, draft: &Draft) -> Place {
        self.words(draft.words())
    }

    /// Adds how each row's token is chosen.
    pub fn choices(&mut self, choices: &[Choice]) -> Place {
        self.words(choices.iter().flat_map(Choice::words))
    }

    /// Adds each row's entries: where they start, and they themselves.
    pub fn entries(&mut self, rows: &[Vec<Entry>]) -> [Place; 2] {
        let mut reached = 0;
        let ends = rows.iter().map(|row| {
            reached += row.len() as u32;
            reached
        });
        let starts = self.words(std::iter::once(0).chain(ends));
        [
            starts,
            self.words(rows.iter().flatten().flat_map(Entry::words)),
        ]
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Where parcels arrive: one place on the device.
#[derive(Debug)]
pub struct Inbox<M> {
    content: Tensor<M, u32>,
}

impl<M> Inbox<M> {
    /// For parcels of up to so many words.
    pub fn new<D: Device<Memory = M>>(device: &D, words: usize) -> Result<Self, DeviceError> {
        Ok(Self {
            content: Tensor::empty(device, words)?,
        })
    }

    /// Sends a parcel in place of the last one: one copy.
    pub fn send<D: Device<Memory = M>>(
        &mut self,
        device: &D,
        parcel: &Parcel,
    ) -> Result<(), DeviceError> {
        self.content.write(device, &parcel.words)
    }

    /// Some words of the parcel.
    pub fn words(&self, place: Place) -> Result<Tensor<M, u32>, DeviceError> {
        self.content.part(place.first, place.len)
    }

    /// Choices or entries of the parcel.
    pub fn bytes(&self, place: Place) -> Result<Tensor<M, u8>, DeviceError> {
        Ok(self.words(place)?.cast())
    }

    /// A plan of the parcel.
    pub fn plan(&self, place: Place, draft: &Draft) -> Result<Plan<M>, DeviceError> {
        Ok(draft.at(self.words(place)?.cast()))
    }
}
