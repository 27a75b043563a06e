// Churn risks in tables.
import { enumLabel, money, percent, sentence } from "../format";
import { type ChurnRisk, RiskLevel } from "../gen/shopkeeper/churn/v1/churn_pb";
import { Badge, CustomerLink } from "./layout";
import type { Column } from "./table";

export const RiskBadge = ({ level }: { level: RiskLevel }) => (
  <Badge tone={level === RiskLevel.HIGH ? "bad" : level === RiskLevel.MEDIUM ? "weak" : "good"}>
    {enumLabel(RiskLevel[level])}
  </Badge>
);

/** The reasons that raise a risk, or those that lower it, as one sentence; the strongest first. */
const reasonTexts = (risk: ChurnRisk, raise: boolean, limit?: number) =>
  sentence(
    risk.reasons
      .filter((r) => (raise ? r.contribution > 0 : r.contribution < 0))
      .slice(0, limit)
      .map((r) => r.text)
      .join("; "),
  );

export const RISK_COLUMNS: Column<ChurnRisk>[] = [
  {
    header: "Customer",
    value: (r) => r.customerId,
    render: (r) => <CustomerLink id={r.customerId} />,
  },
  {
    header: "Risk",
    value: (r) => enumLabel(RiskLevel[r.riskLevel]),
    render: (r) => <RiskBadge level={r.riskLevel} />,
  },
  { header: "Chance", value: (r) => r.probability, format: percent },
  { header: "Spend in the last year", value: (r) => r.annualValue, format: money },
  { header: "Value at risk", value: (r) => r.valueAtRisk, format: money },
  {
    header: "Reasons",
    value: (r) => reasonTexts(r, true),
    wide: true,
    render: (r) => reasonTexts(r, true, 3) || "–",
  },
  { header: "Lowers the risk", value: (r) => reasonTexts(r, false), downloadOnly: true },
];
