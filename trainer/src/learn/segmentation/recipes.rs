//! The recipes of segmentation.

use scoring::segmentation::Space;

/// A way to segment customers.
pub(super) struct Recipe {
    pub(super) name: &'static str,
    /// The space in which k-means clusters; `None`: tiers of a forecast.
    pub(super) space: Option<Space>,
    /// Names of segments and what to do with their customers, the most valuable first.
    pub(super) segments: &'static [(&'static str, &'static str)],
}

/// The recipes of segmentation, the default first.
pub(super) const RECIPES: [Recipe; 3] = [
    Recipe {
        name: "default",
        space: None,
        segments: &[
            (
                "Champions",
                "VIP programme: early access, a person to call, no discounts needed",
            ),
            (
                "Loyal",
                "Bundles and volume prices on what they buy anyway; ask for reviews and referrals",
            ),
            (
                "Regular",
                "Cross-sell beside the last order; a reason to come back within a month",
            ),
            (
                "Occasional",
                "Seasonal reminders with their own products; free postage above their usual basket",
            ),
            (
                "Drifting",
                "One win-back offer with the products they bought",
            ),
            (
                "Dormant",
                "A greeting before the season; no money spent on them otherwise",
            ),
        ],
    },
    Recipe {
        name: "rfm3",
        space: Some(Space::LogMonetary),
        segments: &[
            ("Champions", "VIP programme: early access, a person to call"),
            ("Regular", "Bundles and cross-selling"),
            ("Hibernating", "Win-back offer"),
        ],
    },
    Recipe {
        name: "value4",
        space: Some(Space::SpendOrders),
        segments: &[
            ("High Value", "VIP programme and personal service"),
            ("Medium Value", "Volume prices and bundles"),
            ("Low Value", "Cross-selling and free postage thresholds"),
            ("New Buyers", "Welcome series and a second-order offer"),
        ],
    },
];
