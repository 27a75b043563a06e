// Labels and formats of the metrics that an evaluation reports.
import { decimal, percent, spacedName } from "./format";

const NAMES: [RegExp, string][] = [
  [/^wape_/, "Error (WAPE), "],
  [/^coverage_80_/, "Within the 80 % interval, "],
  [/^auc$/, "AUC: ranks churners above others"],
  [/^auc_/, "AUC of the "],
  [/^brier$/, "Brier score (less is better)"],
  [/^log_loss$/, "Log loss (less is better)"],
  [/^calibration_error$/, "Calibration error (less is better)"],
  [/^churn_rate$/, "Customers who churned"],
  [/^ndcg_at_10_new$/, "NDCG@10, products new to the customer"],
  [/^ndcg_at_10$/, "NDCG@10, next purchases"],
  [/^coverage_at_10$/, "Products among any customer's first ten"],
  [/^pr_auc$/, "PR AUC on planted errors"],
  [/^recall_high$/, "Planted errors found as high"],
  [/^false_high$/, "Ordinary lines called high"],
  [/^silhouette$/, "Silhouette"],
  [/^spend_explained$/, "Variance of later spend explained"],
  [/^capped_spend_explained$/, "Variance of later spend explained, capped"],
  [/^smallest_share$/, "Smallest segment"],
];

export function metricName(name: string): string {
  const known = NAMES.find(([pattern]) => pattern.test(name));
  return known ? name.replace(known[0], known[1]).replaceAll("_", " ") : spacedName(name);
}

/** Metrics that are shares in 0..=1. */
const SHARES = /^(wape|coverage|recall|false|churn_rate|smallest)/;

export const metricValue = (name: string, value: number) =>
  SHARES.test(name) ? percent(value, 2) : decimal(value, 3);
