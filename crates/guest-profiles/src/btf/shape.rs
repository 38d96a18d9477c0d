//! Types as their records say them, one step at a time: for handing a kernel's whole type information to other tools.

use super::{Btf, Kind, TypeId, words};
use crate::{Error, le};

/// What a type is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape<'a> {
    /// `void`, and what is only declared.
    Nothing,
    /// A function.
    Function,
    /// An integer, character or truth value of this name.
    Integer {
        /// As the compiler calls it: `long unsigned int`.
        name: &'a str,
        /// Size in bytes.
        size: u32,
        /// Two's complement.
        signed: bool,
    },
    /// A floating-point number of this name and size in bytes.
    Float {
        /// `double`.
        name: &'a str,
        /// Size in bytes.
        size: u32,
    },
    /// A pointer to this.
    Pointer(TypeId),
    /// So many of these.
    Array(TypeId, u32),
    /// A struct (`false`) or union (`true`) of this size in bytes.
    Record(bool, u32),
    /// An enum of this size in bytes.
    Enum(u32),
}

/// One member of a record, as it is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// Empty for an anonymous record.
    pub name: &'a str,
    /// Its type.
    pub kind: TypeId,
    /// From the start of the record, in bits.
    pub bit_offset: u32,
    /// Bits of a bitfield; 0 for anything else.
    pub width: u32,
}

impl<'a> Btf<'a> {
    /// What a type is, with typedefs and qualifiers looked through.
    pub fn shape(&self, id: TypeId) -> Result<Shape<'a>, Error> {
        let id = self.resolve(id)?;
        let record = self.record(id)?;
        Ok(match record.kind {
            Kind::Int => Shape::Integer {
                name: self.string(record.name)?,
                size: record.size_or_type,
                signed: (self.int_encoding(id, &record)? >> 24) & 1 == 1,
            },
            Kind::Float => Shape::Float { name: self.string(record.name)?, size: record.size_or_type },
            Kind::Ptr => Shape::Pointer(TypeId(record.size_or_type)),
            Kind::Array => {
                let (element, count) = self.array(id, &record)?;
                Shape::Array(element, count)
            }
            Kind::Struct | Kind::Union => Shape::Record(record.kind == Kind::Union, record.size_or_type),
            Kind::Enum | Kind::Enum64 => Shape::Enum(record.size_or_type),
            Kind::FuncProto | Kind::Func => Shape::Function,
            _ => Shape::Nothing,
        })
    }

    /// What a typedef or variable stands for, as it is declared. `None`: it is neither.
    pub fn target(&self, id: TypeId) -> Result<Option<TypeId>, Error> {
        let record = self.record(id)?;
        Ok(matches!(record.kind, Kind::Typedef | Kind::Var).then_some(TypeId(record.size_or_type)))
    }

    /// The members of a struct or union in the order of their declaration; none of any other type.
    pub fn members(&self, id: TypeId) -> Result<Vec<Member<'a>>, Error> {
        let record = self.record(id)?;
        if !matches!(record.kind, Kind::Struct | Kind::Union) {
            return Ok(Vec::new());
        }
        let truncated = || Error::BtfTruncatedType { id: id.0, offset: record.extra };
        (0..record.vlen)
            .map(|index| {
                let raw: [u8; 12] = le::array(self.types, record.extra + 12 * index).ok_or_else(truncated)?;
                let [name, kind, place] = words(raw);
                let (bit_offset, width) =
                    if record.flag { (place & 0x00ff_ffff, place >> 24) } else { (place, 0) };
                Ok(Member { name: self.string(name)?, kind: TypeId(kind), bit_offset, width })
            })
            .collect()
    }
}
