//! Policy documents as they are written, before anything in them is understood. What a document may
//! leave out or write in more than one way ends here; an unknown or repeated member is an error.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Error, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::document::Effect;
use super::error::PolicyError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenDocument {
    #[serde(rename = "Version")]
    pub(super) version: Option<String>,
    #[serde(rename = "Id")]
    _id: Option<String>,
    #[serde(rename = "Statement")]
    pub(super) statements: OneOrMany<Object<WrittenStatement>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct WrittenStatement {
    pub(super) sid: Option<String>,
    pub(super) effect: Effect,
    pub(super) action: Option<OneOrMany<String>>,
    pub(super) not_action: Option<OneOrMany<String>>,
    pub(super) resource: Option<OneOrMany<String>>,
    pub(super) not_resource: Option<OneOrMany<String>>,
    pub(super) principal: Option<WrittenPrincipal>,
    #[serde(default)]
    pub(super) condition: Pairs<Pairs<OneOrMany<Scalar>>>,
}

pub(super) enum WrittenPrincipal {
    Text(String),
    Named(Pairs<OneOrMany<String>>),
}

/// What must be an object: without this, a list of the members' values in their order would do.
pub(super) struct Object<T>(pub(super) T);

/// A list, or its only entry without one.
pub(super) struct OneOrMany<T>(pub(super) Vec<T>);

/// A value of a condition. JSON's own kinds are taken as the text that they are written as.
pub(super) struct Scalar(pub(super) String);

/// An object in its order, in which no name may come twice: a map would keep one and lose the other.
pub(super) struct Pairs<T>(Vec<(String, T)>);

impl<T> Pairs<T> {
    pub(super) fn unique(self) -> Result<Vec<(String, T)>, PolicyError> {
        let mut seen = BTreeSet::new();
        let mut names = self.0.iter().map(|(name, _)| name);
        match names.find(|name| !seen.insert(name.to_lowercase())) {
            Some(name) => Err(PolicyError::Twice(name.clone())),
            None => Ok(self.0),
        }
    }
}

impl<T> Default for Pairs<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// Reads a value of a type by what JSON has in its place.
struct Reader<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<Pairs<T>> {
    type Value = Pairs<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<Object<T>> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<OneOrMany<T>> {
    type Value = OneOrMany<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one value or a list of them")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(OneOrMany(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(|one| OneOrMany(vec![one]))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let text: StrDeserializer<'_, E> = text.into_deserializer();
        T::deserialize(text).map(|one| OneOrMany(vec![one]))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        T::deserialize(value.into_deserializer()).map(|one| OneOrMany(vec![one]))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        T::deserialize(value.into_deserializer()).map(|one| OneOrMany(vec![one]))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        T::deserialize(value.into_deserializer()).map(|one| OneOrMany(vec![one]))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        T::deserialize(value.into_deserializer()).map(|one| OneOrMany(vec![one]))
    }
}

impl Visitor<'_> for Reader<Scalar> {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number, true or false")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar(text.to_owned()))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }
}

impl<'de> Visitor<'de> for Reader<WrittenPrincipal> {
    type Value = WrittenPrincipal;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`*` or an object such as {\"AWS\": \"arn:…\"}")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(WrittenPrincipal::Text(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Pairs::deserialize(MapAccessDeserializer::new(map)).map(WrittenPrincipal::Named)
    }
}

macro_rules! read_as_it_comes {
    ($($kind:ty $(, $parameter:ident)?);*) => {
        $(
            impl<'de $(, $parameter: Deserialize<'de>)?> Deserialize<'de> for $kind {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    deserializer.deserialize_any(Reader(PhantomData::<Self>))
                }
            }
        )*
    };
}

read_as_it_comes! { Object<T>, T; Pairs<T>, T; OneOrMany<T>, T; Scalar; WrittenPrincipal }
