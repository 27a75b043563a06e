//! The list of all models: how the trainer learns each and scores with it.
//!
//! Adding a model adds a learner in `learn`, a scorer in `bulk` and an entry here.

use scoring::{Artifact, ModelKind};

use crate::{
    Failure,
    bulk::{self, BulkTable, Request},
    learn::{
        self, Learner, anomaly::AnomalyLearner, churn::ChurnLearner, forecast::ForecastLearner,
        insights::InsightsLearner, recommendation::RecommendationLearner,
        segmentation::SegmentationLearner,
    },
};

/// Scores in bulk with a published model.
type Scorer = fn(&Artifact, &Request) -> Result<BulkTable, Failure>;

/// What the trainer does with a model.
pub(crate) struct Entry {
    pub(crate) learner: &'static dyn Learner,
    /// `None`: the model has no scores.
    pub(crate) scorer: Option<Scorer>,
}

/// The entry of a model.
pub(crate) fn entry(kind: ModelKind) -> Entry {
    let entry = |learner: &'static dyn Learner, scorer: Option<Scorer>| Entry { learner, scorer };
    match kind {
        ModelKind::Segmentation => entry(&SegmentationLearner, Some(bulk::segmentation::score)),
        ModelKind::Forecast => entry(&ForecastLearner, Some(bulk::forecast::score)),
        ModelKind::Recommendation => {
            entry(&RecommendationLearner, Some(bulk::recommendation::score))
        }
        ModelKind::Churn => entry(&ChurnLearner, Some(bulk::churn::score)),
        ModelKind::Anomaly => entry(&AnomalyLearner, Some(bulk::anomaly::score)),
        ModelKind::Insights => entry(&InsightsLearner, None),
    }
}

/// The names of all models, for help texts.
pub(crate) fn model_names() -> String {
    ModelKind::ALL.map(ModelKind::as_str).join(", ")
}

/// The recipes of all models, for help texts; the first of a model is its default.
pub(crate) fn recipe_names() -> String {
    let recipes = ModelKind::ALL.map(|kind| {
        let recipes = entry(kind).learner.recipes().join(" or ");
        format!("{kind}={recipes}")
    });
    recipes.join(", ")
}

/// Refuses a recipe that the model's learner does not have.
pub(crate) fn check_recipe(model: ModelKind, recipe: &str) -> Result<(), Failure> {
    match learn::recipe(entry(model).learner, Some(recipe)) {
        Ok(_) => Ok(()),
        Err(source) => Err(Failure::Learn { model, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_has_the_learner_of_its_own_kind() {
        for kind in ModelKind::ALL {
            assert_eq!(entry(kind).learner.kind(), kind);
        }
    }
}
