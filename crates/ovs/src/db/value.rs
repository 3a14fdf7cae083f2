//! Atoms and data of RFC 7047 §5.1.

use std::{cmp::Ordering, fmt, sync::Arc};

use serde_json::{Value, json};
use uuid::Uuid;

use super::schema::{AtomType, ColumnType};

/// A JSON value that has not the form its column's type asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found} is no {wanted}")]
pub struct ValueError {
    found: String,
    wanted: &'static str,
}

impl ValueError {
    fn new(found: &Value, wanted: &'static str) -> Self {
        let mut found = found.to_string();
        if found.len() > 80 {
            found = found.chars().take(77).chain("...".chars()).collect();
        }
        Self { found, wanted }
    }
}

/// A single value.
#[derive(Clone, Debug)]
pub enum Atom {
    /// 64-bit signed integer.
    Integer(i64),
    /// 64-bit float; compared by `f64::total_cmp`.
    Real(f64),
    Boolean(bool),
    String(Arc<str>),
    /// UUID, mostly of a row.
    Uuid(Uuid),
    /// Row inserted by the same transaction, by its name there. Never comes from the server.
    NamedUuid(Arc<str>),
}

impl Atom {
    fn rank(&self) -> u8 {
        match self {
            Self::Integer(_) => 0,
            Self::Real(_) => 1,
            Self::Boolean(_) => 2,
            Self::String(_) => 3,
            Self::Uuid(_) => 4,
            Self::NamedUuid(_) => 5,
        }
    }

    fn default_of(kind: AtomType) -> Self {
        match kind {
            AtomType::Integer => Self::Integer(0),
            AtomType::Real => Self::Real(0.0),
            AtomType::Boolean => Self::Boolean(false),
            AtomType::String => Self::String("".into()),
            AtomType::Uuid => Self::Uuid(Uuid::nil()),
        }
    }

    fn from_json(json: &Value, kind: AtomType) -> Result<Self, ValueError> {
        match kind {
            AtomType::Integer => {
                json.as_i64().map(Self::Integer).ok_or_else(|| ValueError::new(json, "64-bit integer"))
            }
            AtomType::Real => json.as_f64().map(Self::Real).ok_or_else(|| ValueError::new(json, "number")),
            AtomType::Boolean => {
                json.as_bool().map(Self::Boolean).ok_or_else(|| ValueError::new(json, "boolean"))
            }
            AtomType::String => json
                .as_str()
                .map(|text| Self::String(text.into()))
                .ok_or_else(|| ValueError::new(json, "string")),
            AtomType::Uuid => match json.as_array().map(Vec::as_slice) {
                Some([Value::String(tag), Value::String(text)]) if tag == "uuid" => {
                    Uuid::parse_str(text).ok()
                }
                _ => None,
            }
            .map(Self::Uuid)
            .ok_or_else(|| ValueError::new(json, "UUID")),
        }
    }

    /// The atom as the protocol writes it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Integer(value) => json!(value),
            Self::Real(value) => json!(value),
            Self::Boolean(value) => json!(value),
            Self::String(value) => json!(&**value),
            Self::Uuid(value) => json!(ovsdb::protocol::Uuid::from(*value)),
            Self::NamedUuid(name) => json!(["named-uuid", &**name]),
        }
    }

    /// The string, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }

    /// The integer, if it is one.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            _ => None,
        }
    }

    /// The UUID, if it is one.
    #[must_use]
    pub fn as_uuid(&self) -> Option<Uuid> {
        match self {
            Self::Uuid(value) => Some(*value),
            _ => None,
        }
    }
}

impl Ord for Atom {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => a.cmp(b),
            (Self::Real(a), Self::Real(b)) => a.total_cmp(b),
            (Self::Boolean(a), Self::Boolean(b)) => a.cmp(b),
            (Self::String(a), Self::String(b)) | (Self::NamedUuid(a), Self::NamedUuid(b)) => a.cmp(b),
            (Self::Uuid(a), Self::Uuid(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Atom {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Atom {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Atom {}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => value.fmt(f),
            Self::Real(value) => value.fmt(f),
            Self::Boolean(value) => value.fmt(f),
            Self::String(value) | Self::NamedUuid(value) => value.fmt(f),
            Self::Uuid(value) => value.fmt(f),
        }
    }
}

impl From<i64> for Atom {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<bool> for Atom {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<&str> for Atom {
    fn from(value: &str) -> Self {
        Self::String(value.into())
    }
}

impl From<String> for Atom {
    fn from(value: String) -> Self {
        Self::String(value.into())
    }
}

impl From<Uuid> for Atom {
    fn from(value: Uuid) -> Self {
        Self::Uuid(value)
    }
}

/// Content of a column: a set (a scalar is a set of one) or a map. Elements are sorted and unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datum {
    Set(Vec<Atom>),
    /// Map from atom to atom.
    Map(Vec<(Atom, Atom)>),
}

impl Datum {
    /// A set of the given elements.
    pub fn set<A: Into<Atom>>(elements: impl IntoIterator<Item = A>) -> Self {
        let mut atoms: Vec<Atom> = elements.into_iter().map(Into::into).collect();
        atoms.sort();
        atoms.dedup();
        Self::Set(atoms)
    }

    /// A map of the given pairs; of equal keys the last pair stays.
    pub fn map<K: Into<Atom>, V: Into<Atom>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let map: std::collections::BTreeMap<Atom, Atom> =
            pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self::Map(map.into_iter().collect())
    }

    /// The value a column has when an insert does not name it.
    #[must_use]
    pub fn default_of(kind: ColumnType) -> Self {
        match kind.value {
            Some(_) => Self::Map(Vec::new()),
            None if kind.scalar => Self::Set(vec![Atom::default_of(kind.key)]),
            None => Self::Set(Vec::new()),
        }
    }

    /// Reads the protocol's form of a column of type `kind`.
    ///
    /// # Errors
    /// [`ValueError`].
    pub fn from_json(json: &Value, kind: ColumnType) -> Result<Self, ValueError> {
        let tagged = |tag: &str| match json.as_array().map(Vec::as_slice) {
            Some([Value::String(found), Value::Array(elements)]) if found == tag => Some(elements),
            _ => None,
        };
        match kind.value {
            Some(value_kind) => {
                let pairs = tagged("map").ok_or_else(|| ValueError::new(json, "map"))?;
                let mut map = pairs
                    .iter()
                    .map(|pair| match pair.as_array().map(Vec::as_slice) {
                        Some([key, value]) => {
                            Ok((Atom::from_json(key, kind.key)?, Atom::from_json(value, value_kind)?))
                        }
                        _ => Err(ValueError::new(pair, "pair")),
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                map.sort();
                Ok(Self::Map(map))
            }
            None => match tagged("set") {
                Some(elements) => {
                    let mut set = elements
                        .iter()
                        .map(|e| Atom::from_json(e, kind.key))
                        .collect::<Result<Vec<_>, _>>()?;
                    set.sort();
                    Ok(Self::Set(set))
                }
                None => Ok(Self::Set(vec![Atom::from_json(json, kind.key)?])),
            },
        }
    }

    /// The datum as the protocol writes it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Set(set) => match set.as_slice() {
                [one] => one.to_json(),
                many => json!(["set", many.iter().map(Atom::to_json).collect::<Vec<_>>()]),
            },
            Self::Map(map) => {
                json!(["map", map.iter().map(|(k, v)| json!([k.to_json(), v.to_json()])).collect::<Vec<_>>()])
            }
        }
    }

    /// Applies the difference an `update2` modification carries (ovsdb-server(7) §4.1.14): a column that holds one
    /// value is replaced; elements of a set toggle; pairs of a map are removed if equal, replaced if their value
    /// differs, added if absent.
    pub fn apply_diff(&mut self, diff: Self, kind: ColumnType) {
        if !kind.composite {
            *self = diff;
            return;
        }
        match (&mut *self, diff) {
            (Self::Set(set), Self::Set(diff)) => {
                for atom in diff {
                    match set.binary_search(&atom) {
                        Ok(index) => drop(set.remove(index)),
                        Err(index) => set.insert(index, atom),
                    }
                }
            }
            (Self::Map(map), Self::Map(diff)) => {
                for (key, value) in diff {
                    match map.binary_search_by(|pair| pair.0.cmp(&key)) {
                        Ok(index) if map[index].1 == value => drop(map.remove(index)),
                        Ok(index) => map[index].1 = value,
                        Err(index) => map.insert(index, (key, value)),
                    }
                }
            }
            (_, diff) => *self = diff,
        }
    }

    /// The elements of a set; empty for a map.
    #[must_use]
    pub fn atoms(&self) -> &[Atom] {
        match self {
            Self::Set(set) => set,
            Self::Map(_) => &[],
        }
    }

    /// The pairs of a map; empty for a set.
    #[must_use]
    pub fn pairs(&self) -> &[(Atom, Atom)] {
        match self {
            Self::Set(_) => &[],
            Self::Map(map) => map,
        }
    }
}

impl<A: Into<Atom>> From<A> for Datum {
    fn from(value: A) -> Self {
        Self::Set(vec![value.into()])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const SET: ColumnType =
        ColumnType { key: AtomType::Integer, value: None, scalar: false, composite: true };
    const MAP: ColumnType =
        ColumnType { key: AtomType::String, value: Some(AtomType::Integer), scalar: false, composite: true };

    #[test]
    fn wire_forms() {
        let uuid = Uuid::parse_str("36bef046-7da7-43a5-905a-c17899216fcb").unwrap();
        assert_eq!(Datum::from("x").to_json(), json!("x"));
        assert_eq!(Datum::set([2, 1, 2]).to_json(), json!(["set", [1, 2]]));
        assert_eq!(Datum::set::<i64>([]).to_json(), json!(["set", []]));
        assert_eq!(Datum::from(uuid).to_json(), json!(["uuid", uuid.to_string()]));
        assert_eq!(Datum::map([("a", 1), ("b", 2)]).to_json(), json!(["map", [["a", 1], ["b", 2]]]));
        assert_eq!(Datum::from_json(&json!(7), SET), Ok(Datum::set([7])));
        assert!(Datum::from_json(&json!({"a": 1}), MAP).is_err());
        assert!(Datum::from_json(&json!(["uuid", "no"]), ColumnType { key: AtomType::Uuid, ..SET }).is_err());
    }

    proptest! {
        #[test]
        fn set_difference(old in prop::collection::btree_set(0i64..20, 0..10), new in prop::collection::btree_set(0i64..20, 0..10)) {
            let mut datum = Datum::set(old.iter().copied());
            let diff: BTreeSet<i64> = old.symmetric_difference(&new).copied().collect();
            datum.apply_diff(Datum::set(diff), SET);
            prop_assert_eq!(datum, Datum::set(new));
        }

        #[test]
        fn map_difference(
            old in prop::collection::btree_map("[a-e]", 0i64..3, 0..6),
            new in prop::collection::btree_map("[a-e]", 0i64..3, 0..6),
        ) {
            let mut diff = BTreeMap::new();
            for (key, value) in &old {
                match new.get(key) {
                    None => { diff.insert(key.clone(), *value); }
                    Some(other) if other != value => { diff.insert(key.clone(), *other); }
                    Some(_) => {}
                }
            }
            diff.extend(new.iter().filter(|(key, _)| !old.contains_key(*key)).map(|(k, v)| (k.clone(), *v)));
            let mut datum = Datum::map(old);
            datum.apply_diff(Datum::map(diff), MAP);
            prop_assert_eq!(datum, Datum::map(new));
        }

        #[test]
        fn json_round_trip(map in prop::collection::btree_map(".{0,8}", any::<i64>(), 0..6), set in prop::collection::btree_set(any::<i64>(), 0..6)) {
            let map = Datum::map(map);
            prop_assert_eq!(Datum::from_json(&map.to_json(), MAP).unwrap(), map);
            let set = Datum::set(set);
            prop_assert_eq!(Datum::from_json(&set.to_json(), SET).unwrap(), set);
        }
    }
}
