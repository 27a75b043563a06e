// Drift: how far the inputs and outputs of a model have moved from their training distribution.
import { Badge, Card } from "../../components/layout";
import { Answer } from "../../components/states";
import { type Column, Table } from "../../components/table";
import { useMetrics } from "../../data/prometheus";
import { decimal, spacedName } from "../../format";

interface DriftedNumber {
  number: string;
  index: number;
}

// The usual thresholds of the population stability index (PSI).
const MODERATE = 0.1;
const SIGNIFICANT = 0.25;

const drift = (index: number) =>
  index >= SIGNIFICANT
    ? ({ name: "Significant drift", tone: "bad" } as const)
    : index >= MODERATE
      ? ({ name: "Moderate drift", tone: "weak" } as const)
      : ({ name: "Stable", tone: "good" } as const);

const DRIFT_COLUMNS: Column<DriftedNumber>[] = [
  { header: "Number", value: (d) => spacedName(d.number), wide: true },
  { header: "Stability index", value: (d) => d.index, format: (v) => decimal(v, 3) },
  {
    header: "Since training",
    value: (d) => drift(d.index).name.toLowerCase(),
    render: (d) => <Badge tone={drift(d.index).tone}>{drift(d.index).name}</Badge>,
  },
];

export function Drift({ model }: { model: string }) {
  const metrics = useMetrics();
  const numbers = (metrics.data ?? [])
    // The gauge is 0 until a thousand values have been compared.
    .filter((s) => s.name === "shopkeeper_model_drift" && s.labels.model === model && s.value > 0)
    .map((s): DriftedNumber => ({ number: s.labels.number ?? "", index: s.value }))
    .toSorted((a, b) => b.index - a.index);
  return (
    <Card
      title="Drift"
      note="Population stability index of the numbers in recent calls against training: moderate drift from 0.1, significant drift from 0.25"
    >
      <Answer
        query={metrics}
        isEmpty={() => numbers.length === 0}
        emptyText="The gateway has no drift of this model yet: too few calls, or the model's service runs in another process."
      >
        {() => (
          <Table
            label="Drift of the model's numbers"
            rows={numbers}
            columns={DRIFT_COLUMNS}
            download={`${model}-drift`}
          />
        )}
      </Answer>
    </Card>
  );
}
