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
    /// Elements from `start` on, as many as `out` takes. Where groups share a scale, both are whole
    /// groups or blocks.
    fn widen<V: Isa>(row: Row<'_>, start: usize, out: &mut [f32]);
}

/// A format that is widened fast enough to be widened anew for each activation.
pub(super) trait Stream: Element {
    /// Blocks of [`LANES`] elements in a chunk: 1 or 2.
    const BLOCKS: usize;
    /// Bytes that are read together.
    type Chunk;
    fn chunks<'a>(row: Row<'a>) -> &'a [Self::Chunk];
    /// What elements of a group have in common, in the form that is fastest to apply.
    fn scale<V: Isa>(row: Row<'_>, group: usize) -> V::V;
    /// The first or second block of a chunk, widened.
    fn lanes<V: Isa>(chunk: &Self::Chunk, second: bool, scale: V::V) -> V::V;
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
            #[inline(always)]
            fn widen<V: Isa>(row: Row<'_>, start: usize, out: &mut [f32]) {
                let (elements, _) = row.bytes[start * $bytes..].as_chunks::<$bytes>();
                for (out, element) in out.iter_mut().zip(elements) {
                    *out = $one(*element);
                }
            }
        }

        impl Stream for $name {
            const BLOCKS: usize = 1;
            type Chunk = [u8; $bytes * LANES];
            #[inline(always)]
            fn chunks<'a>(row: Row<'a>) -> &'a [Self::Chunk] {
                row.bytes.as_chunks().0
            }
            #[inline(always)]
            fn scale<V: Isa>(_: Row<'_>, _: usize) -> V::V {
                V::splat(1.0)
            }
            #[inline(always)]
            fn lanes<V: Isa>(chunk: &Self::Chunk, _: bool, _: V::V) -> V::V {
                $lanes(chunk)
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
    #[inline(always)]
    fn widen<V: Isa>(row: Row<'_>, start: usize, out: &mut [f32]) {
        let scales = &row.scales[start / mxfp4::BLOCK..];
        mxfp4::widen(&row.bytes[start / 2..], scales, out);
    }
}

/// The formats whose groups share a scale.
macro_rules! scaled {
    ($name:ident, $blocks:literal, $scale:expr, $lanes:expr) => {
        impl Element for $name {
            #[inline(always)]
            fn widen<V: Isa>(row: Row<'_>, start: usize, out: &mut [f32]) {
                widen_chunks::<V, Self>(row, start, out);
            }
        }

        impl Stream for $name {
            const BLOCKS: usize = $blocks;
            type Chunk = [u8; LANES];
            #[inline(always)]
            fn chunks<'a>(row: Row<'a>) -> &'a [Self::Chunk] {
                row.bytes.as_chunks().0
            }
            #[inline(always)]
            fn scale<V: Isa>(row: Row<'_>, group: usize) -> V::V {
                $scale(V::half(row.scale(group)))
            }
            #[inline(always)]
            fn lanes<V: Isa>(chunk: &Self::Chunk, second: bool, scale: V::V) -> V::V {
                $lanes(chunk, second, scale)
            }
        }
    };
}

scaled!(Int8, 1, V::splat, |chunk, _, scale| V::mul(
    V::from_i8(chunk),
    scale
));
scaled!(Int4, 2, V::scale_i4, V::from_i4);

impl<'a> Row<'a> {
    /// The bits of a group's scale.
    #[inline(always)]
    fn scale(self, group: usize) -> u16 {
        let scale = self.scales[2 * group..].first_chunk();
        u16::from_le_bytes(*scale.unwrap_or(&[0; 2]))
    }

    /// Blocks that share a scale; all, where elements stand by themselves.
    #[inline(always)]
    pub(super) fn group_blocks(self) -> usize {
        match self.shift {
            0 => usize::MAX,
            shift => (1 << shift) / LANES,
        }
    }
}

#[inline(always)]
fn widen_chunks<V: Isa, E: Stream>(row: Row<'_>, start: usize, out: &mut [f32]) {
    let chunks = &E::chunks(row)[start / LANES / E::BLOCKS..];
    let per_group = row.group_blocks();
    let blocks = out.as_chunks_mut().0;
    for (group, blocks) in blocks.chunks_mut(per_group).enumerate() {
        let scale = E::scale::<V>(row, start / LANES / per_group + group);
        let chunks = &chunks[group * (per_group / E::BLOCKS)..];
        for (chunk, out) in chunks.iter().zip(blocks.chunks_mut(E::BLOCKS)) {
            for (index, out) in out.iter_mut().enumerate() {
                *out = V::store(E::lanes::<V>(chunk, index != 0, scale));
            }
        }
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
