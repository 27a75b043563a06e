// The version of a model that is being served, and its gates.
import { Badge, Card } from "../../components/layout";
import { StateBadge } from "../../components/model-state";
import { Answer } from "../../components/states";
import { type Column, Table } from "../../components/table";
import { useStatus } from "../../data/model-status";
import { bytes, day, dateTime, sentence } from "../../format";
import type { Gate } from "../../gen/shopkeeper/model/v1/model_pb";

const GATE_COLUMNS: Column<Gate>[] = [
  { header: "Gate", value: (g) => sentence(g.name), wide: true },
  {
    header: "Passed",
    value: (g) => (g.passed ? "yes" : "no"),
    render: (g) => <Badge tone={g.passed ? "good" : "bad"}>{g.passed ? "Passed" : "Failed"}</Badge>,
  },
  { header: "Figures", value: (g) => sentence(g.detail), wide: true },
];

export function Current({ model }: { model: string }) {
  const answer = useStatus(model);
  return (
    <>
      <Card title="Now" span={5}>
        <Answer query={answer}>
          {({ status }) =>
            status && (
              <>
                <p class="tags">
                  <StateBadge status={status} />
                </p>
                <dl class="pairs">
                  <dt>Version</dt>
                  <dd class="breaks">{status.version || "none yet"}</dd>
                  <dt>Trained on lines before</dt>
                  <dd>{day(status.details?.asOf)}</dd>
                  <dt>Recipe</dt>
                  <dd>{status.details?.recipe || "–"}</dd>
                  <dt>Served since</dt>
                  <dd>{dateTime(status.loadedAt)}</dd>
                  <dt>Size</dt>
                  <dd>{status.details ? bytes(status.details.sizeBytes) : "–"}</dd>
                  {status.wantedVersion !== status.version && (
                    <>
                      <dt>Wanted version</dt>
                      <dd class="breaks">{status.wantedVersion}</dd>
                    </>
                  )}
                </dl>
                {status.refusal && <p class="bad below">{status.refusal}</p>}
              </>
            )
          }
        </Answer>
      </Card>
      <Card title="Gates" note="Checks that a version must pass before it is published" span={7}>
        <Answer
          query={answer}
          isEmpty={(a) => !a.status?.details?.gates.length}
          emptyText="This model has no gates."
        >
          {(a) => <Table label="Gates" rows={a.status!.details!.gates} columns={GATE_COLUMNS} />}
        </Answer>
      </Card>
    </>
  );
}
