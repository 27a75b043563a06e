// The version of each model that is being served, its gates and metrics, other versions, and drift.
import { Choice } from "../../components/inputs";
import { Page } from "../../components/layout";
import { MODELS } from "../../data/model-status";
import { enumLabel } from "../../format";
import { filter } from "../../url";
import { Current } from "./current";
import { Drift } from "./drift";
import { Versions } from "./versions";

export default function Models() {
  const model = filter("model", MODELS[0]);
  return (
    <Page
      title="Models"
      lead="The version of each model that is being served, its metrics on later transactions, and the gates it passed."
      filters={
        <Choice
          name="model"
          label="Model"
          fallback={MODELS[0]!}
          options={MODELS.map((m): [string, string] => [m, enumLabel(m)])}
        />
      }
    >
      <div class="cards">
        <Current model={model} />
        <Versions model={model} />
        <Drift model={model} />
      </div>
    </Page>
  );
}
