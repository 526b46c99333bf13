//! The micro world as commands see it: the world of the micro profile, its test questions, the
//! student that stands in the repository.

use std::str::FromStr;

use anyhow::{Context, bail, ensure};
use benchmarks::TestSet;
use benchmarks::data::{Data, Item, TestItem, World};
use replicate::profile::Profile;

use super::recipe::recipe_folder;

/// The micro profile's world; `seed` in place of its own makes another of the same kind.
pub fn world(seed: Option<u64>) -> anyhow::Result<World> {
    let world = Profile::load("micro", &[])?.world;
    let mut world = world.context("the micro profile has no [world]")?;
    world.seed = seed.unwrap_or(world.seed);
    Ok(world)
}

/// The model that is asked: the one given, else the untrained student of the repository,
/// `replicate/checkpoints/micro/student`.
///
/// # Errors
/// A student that is not there.
pub fn model_or_student(given: Option<&str>) -> anyhow::Result<String> {
    if let Some(name) = given {
        return Ok(name.to_owned());
    }
    let folder = recipe_folder().join("checkpoints/micro/student");
    ensure!(
        folder.is_dir(),
        "{}: the micro student is not there; give --model DIR, or run this in a checkout of the \
         repository",
        folder.display()
    );
    let name = folder.to_str().map(str::to_owned);
    name.with_context(|| format!("{}: the path is not UTF-8", folder.display()))
}

/// Where a test question stands: `vwtq/17`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestPosition {
    /// The set.
    pub set: TestSet,
    /// Which of its questions, from 0.
    pub index: usize,
}

impl TestPosition {
    /// The question that stands there, with what its generator knows.
    ///
    /// # Errors
    /// A question that cannot be asked.
    pub fn item(self, data: &Data) -> anyhow::Result<Item> {
        match data.place(self.set, self.index, |_| false)? {
            TestItem::Ready(item) => Ok(*item),
            TestItem::Undecodable(listing, why) => bail!("question {}: {why}", listing.id),
            TestItem::Known(id) => bail!("question {id}: it was passed over"),
        }
    }
}

impl FromStr for TestPosition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (set, index) = text
            .split_once('/')
            .ok_or_else(|| format!("expected SET/INDEX, for example vwtq/17, found '{text}'"))?;
        Ok(TestPosition {
            set: set.parse()?,
            index: index.parse().map_err(|_| {
                format!(
                    "expected the number of a question, from 0, after '{set}/', found '{index}'"
                )
            })?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_and_refused() {
        let position: TestPosition = "vwtq-syn/17".parse().unwrap();
        assert_eq!((position.set, position.index), (TestSet::VwtqSyn, 17));
        for (text, told) in [
            ("vwtq", "expected SET/INDEX, for example vwtq/17"),
            ("wtq/1", "unknown test set 'wtq': expected one of charxiv,"),
            (
                "vwtq/-1",
                "expected the number of a question, from 0, after 'vwtq/', found '-1'",
            ),
        ] {
            let error = text.parse::<TestPosition>().unwrap_err();
            assert!(error.starts_with(told), "{error}");
        }
    }
}
