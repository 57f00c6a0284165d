//! How weights are stored, and how they are widened to f32: exactly, in every format.

use super::vector::{Isa, Separate};
use super::{LANES, affine, mxfp4};

/// How the elements of a matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    F32,
    F16,
    Bf16,
    /// OCP's format: see [`mxfp4`].
    Mxfp4,
    /// Signed bytes; each group of `1 << shift` weights has a scale in f16.
    Int8 {
        shift: u8,
    },
    /// Signed halves of bytes, as [`Int8`](Self::Int8) otherwise. Of each 16 bytes the low halves
    /// are 16 weights, and the high halves the next 16.
    Int4 {
        shift: u8,
    },
    /// As other programs make them: see [`affine`].
    Affine4 {
        shift: u8,
    },
    /// Likewise.
    Affine8 {
        shift: u8,
    },
    /// Likewise.
    Float8 {
        shift: u8,
    },
}

/// Rows of a stored matrix.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) bytes: &'a [u8],
    /// Of formats in which groups of weights share one.
    pub(crate) scales: &'a [u8],
    pub(crate) format: Format,
    pub(crate) columns: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn slice(self, rows: std::ops::Range<usize>) -> Rows<'a> {
        let row_bytes = self.format.row_bytes(self.columns);
        let scale_bytes = self.format.scale_bytes(self.columns);
        Rows {
            bytes: &self.bytes[rows.start * row_bytes..rows.end * row_bytes],
            scales: &self.scales[rows.start * scale_bytes..rows.end * scale_bytes],
            ..self
        }
    }

    pub(super) fn row(self, row: usize) -> Row<'a> {
        let Rows { bytes, scales, .. } = self.slice(row..row + 1);
        let shift = match self.format {
            Format::Int8 { shift }
            | Format::Int4 { shift }
            | Format::Affine4 { shift }
            | Format::Affine8 { shift }
            | Format::Float8 { shift } => u32::from(shift),
            _ => 0,
        };
        Row {
            bytes,
            scales,
            shift,
        }
    }
}

impl Format {
    /// Bytes of one row's elements.
    pub(crate) fn row_bytes(self, columns: usize) -> usize {
        match self {
            Self::F32 => columns * 4,
            Self::F16 | Self::Bf16 => columns * 2,
            Self::Int8 { .. } | Self::Affine8 { .. } | Self::Float8 { .. } => columns,
            Self::Int4 { .. } | Self::Mxfp4 => columns / 2,
            Self::Affine4 { .. } => affine::half_bytes(columns),
        }
    }

    /// Bytes of one row's scales.
    pub(crate) fn scale_bytes(self, columns: usize) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 0,
            Self::Mxfp4 => columns / mxfp4::BLOCK,
            Self::Int8 { shift } | Self::Int4 { shift } => (columns >> shift) * 2,
            Self::Affine4 { shift } | Self::Affine8 { shift } => {
                affine::groups(columns, shift) * affine::RECORD
            }
            Self::Float8 { shift } => affine::groups(columns, shift) * 4,
        }
    }
}

/// One stored row.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) scales: &'a [u8],
    pub(super) shift: u32,
}

/// Widens the elements of one format.
pub(super) trait Element {
    /// Whether [`lanes`](Self::lanes) is fast enough to be called for each activation.
    const STREAMS: bool;
    /// Elements `LANES * block` and following.
    fn lanes<V: Isa>(row: Row<'_>, block: usize) -> V::V;
    /// Elements from `start` on, as many as `out` takes. Where groups share a scale, both are whole
    /// groups or blocks.
    fn widen<V: Isa>(row: Row<'_>, start: usize, out: &mut [f32]);
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Bf16;
pub(super) struct Mxfp4;
pub(super) struct Int8;
pub(super) struct Int4;

/// The formats in which an element stands by itself.
macro_rules! plain {
    ($name:ident, $bytes:literal, $one:expr, $lanes:expr) => {
        impl Element for $name {
            const STREAMS: bool = true;
            #[inline(always)]
            fn lanes<V: Isa>(row: Row<'_>, block: usize) -> V::V {
                $lanes(row.chunk::<{ $bytes * LANES }>(block))
            }
            #[inline(always)]
            fn widen<V: Isa>(row: Row<'_>, start: usize, out: &mut [f32]) {
                let (elements, _) = row.bytes[start * $bytes..].as_chunks::<$bytes>();
                for (out, element) in out.iter_mut().zip(elements) {
                    *out = $one(*element);
                }
            }
        }
    };
}

plain!(F32, 4, f32::from_le_bytes, |bytes: &[u8; 4 * LANES]| {
    let (elements, _) = bytes.as_chunks::<4>();
    V::load(&std::array::from_fn(|lane| {
        f32::from_le_bytes(elements[lane])
    }))
});
plain!(
    F16,
    2,
    |bytes| from_f16(u16::from_le_bytes(bytes)),
    V::from_f16
);
plain!(Bf16, 2, from_bf16, V::from_bf16);

impl Element for Mxfp4 {
    const STREAMS: bool = false;
    #[inline(always)]
    fn lanes<V: Isa>(row: Row<'_>, block: usize) -> V::V {
        let mut wide = [0.0; mxfp4::BLOCK];
        Self::widen::<V>(row, block / 2 * mxfp4::BLOCK, &mut wide);
        let half = block % 2 * LANES;
        V::load(&std::array::from_fn(|lane| wide[half + lane]))
    }
    #[inline(always)]
    fn widen<V: Isa>(row: Row<'_>, start: usize, out: &mut [f32]) {
        let scales = &row.scales[start / mxfp4::BLOCK..];
        mxfp4::widen(&row.bytes[start / 2..], scales, out);
    }
}

impl Element for Int8 {
    const STREAMS: bool = true;
    #[inline(always)]
    fn lanes<V: Isa>(row: Row<'_>, block: usize) -> V::V {
        V::mul(V::from_i8(row.chunk(block)), V::splat(row.scale(block)))
    }
    #[inline(always)]
    fn widen<V: Isa>(row: Row<'_>, start: usize, out: &mut [f32]) {
        widen_lanes::<V, Self>(row, start, out);
    }
}

impl Element for Int4 {
    const STREAMS: bool = true;
    #[inline(always)]
    fn lanes<V: Isa>(row: Row<'_>, block: usize) -> V::V {
        let halves = V::from_i4(row.chunk(block / 2), !block.is_multiple_of(2));
        V::mul(halves, V::splat(row.scale(block)))
    }
    #[inline(always)]
    fn widen<V: Isa>(row: Row<'_>, start: usize, out: &mut [f32]) {
        widen_lanes::<V, Self>(row, start, out);
    }
}

impl Row<'_> {
    /// The scale of a block's group. Exact in f32, as is its product with any element.
    #[inline(always)]
    fn scale(self, block: usize) -> f32 {
        let group = (block * LANES) >> self.shift;
        from_f16(u16::from_le_bytes([
            self.scales[2 * group],
            self.scales[2 * group + 1],
        ]))
    }

    #[inline(always)]
    fn chunk<const N: usize>(&self, number: usize) -> &[u8; N] {
        self.bytes[number * N..].first_chunk().unwrap_or(&[0; N])
    }
}

#[inline(always)]
fn widen_lanes<V: Isa, E: Element>(row: Row<'_>, start: usize, out: &mut [f32]) {
    for (block, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        *out = V::store(E::lanes::<V>(row, start / LANES + block));
    }
}

#[inline(always)]
fn from_bf16(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

/// Exact for every finite value, subnormal ones included; others are refused at load.
#[inline(always)]
pub(crate) fn from_f16(half: u16) -> f32 {
    const TWO_TO_112: f32 = f32::from_bits((112 + 127) << 23);
    let half = u32::from(half);
    let magnitude = f32::from_bits((half & 0x7fff) << 13) * TWO_TO_112;
    f32::from_bits(magnitude.to_bits() | (half & 0x8000) << 16)
}

/// Widens whole rows.
pub(crate) fn widen(rows: Rows<'_>, out: &mut [f32]) {
    for (index, out) in out.chunks_exact_mut(rows.columns.max(1)).enumerate() {
        let row = rows.row(index);
        match rows.format {
            Format::F32 => F32::widen::<Separate>(row, 0, out),
            Format::F16 => F16::widen::<Separate>(row, 0, out),
            Format::Bf16 => Bf16::widen::<Separate>(row, 0, out),
            Format::Mxfp4 => Mxfp4::widen::<Separate>(row, 0, out),
            Format::Int8 { .. } => Int8::widen::<Separate>(row, 0, out),
            Format::Int4 { .. } => Int4::widen::<Separate>(row, 0, out),
            Format::Affine4 { .. } => affine::Affine4::widen::<Separate>(row, 0, out),
            Format::Affine8 { .. } => affine::Affine8::widen::<Separate>(row, 0, out),
            Format::Float8 { .. } => affine::Float8::widen::<Separate>(row, 0, out),
        }
    }
}
