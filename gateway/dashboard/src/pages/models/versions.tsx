// The versions in the model store, and the button that makes one of them current.
import { useEffect, useMemo, useState } from "preact/hooks";
import { Badge, Card } from "../../components/layout";
import { Answer } from "../../components/states";
import { type Column, Table } from "../../components/table";
import { useCall } from "../../data/api";
import { useStatus } from "../../data/model-status";
import { bytes, day, isoDate } from "../../format";
import { ModelService, type ModelVersion } from "../../gen/shopkeeper/model/v1/model_pb";
import { Evaluation } from "./evaluation";
import { PublishDialog } from "./publish-dialog";

const VERSION_COLUMNS: Column<ModelVersion>[] = [
  {
    header: "Version",
    value: (v) => v.version,
    render: (v) => (
      <>
        {v.version} {v.current && <Badge tone="good">Current</Badge>}
      </>
    ),
  },
  { header: "As of", value: (v) => isoDate(v.asOf), render: (v) => day(v.asOf) },
  { header: "Recipe", value: (v) => v.recipe },
  {
    header: "Gates",
    value: (v) => `${v.gates.filter((g) => g.passed).length} of ${v.gates.length}`,
    render: (v) => {
      const failed = v.gates.filter((g) => !g.passed).length;
      return (
        <Badge tone={failed ? "bad" : "good"}>
          {failed ? `${failed} failed` : `${v.gates.length} passed`}
        </Badge>
      );
    },
  },
  { header: "Size", value: (v) => Number(v.sizeBytes), format: bytes },
];

/** A button in every row except the current version's. */
const publishColumn = (choose: (version: ModelVersion) => void): Column<ModelVersion> => ({
  header: "Publish",
  value: (v) => (v.current ? "current" : ""),
  screenOnly: true,
  render: (v) =>
    v.current ? (
      "–"
    ) : (
      <button type="button" aria-label={`Make current: ${v.version}`} onClick={() => choose(v)}>
        Make current
      </button>
    ),
});

export function Versions({ model }: { model: string }) {
  const answer = useCall(ModelService.method.listModelVersions, { model, pageSize: 100 });
  const allowed = useStatus(model).data?.allowsPublish ?? false;
  const [chosen, setChosen] = useState<ModelVersion>();
  const [message, setMessage] = useState("");
  useEffect(() => setMessage(""), [model]);
  const columns = useMemo(
    () => (allowed ? [...VERSION_COLUMNS, publishColumn(setChosen)] : VERSION_COLUMNS),
    [allowed],
  );
  const current = answer.data?.versions.find((v) => v.current);
  return (
    <>
      <Answer
        query={answer}
        isEmpty={(a) => a.versions.length === 0}
        emptyText="The store has no version of this model."
      >
        {({ versions }) => <Evaluation versions={versions} />}
      </Answer>
      <Card title="Versions" note={allowed ? "Any version can be made current" : undefined}>
        <p role="status" class={message ? "notice" : "unseen"}>
          {message}
        </p>
        <Answer query={answer} isEmpty={(a) => a.versions.length === 0}>
          {({ versions }) => (
            <Table
              label="Versions in the model store"
              rows={versions}
              columns={columns}
              download={`${model}-versions`}
            />
          )}
        </Answer>
      </Card>
      {chosen && (
        <PublishDialog
          model={model}
          version={chosen}
          current={current}
          onEnd={(done) => {
            setChosen(undefined);
            if (done) setMessage(done);
          }}
        />
      )}
    </>
  );
}
