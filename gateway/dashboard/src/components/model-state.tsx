// The serving state of a model.
import { enumLabel } from "../format";
import { ModelState, type ModelStatus } from "../gen/shopkeeper/model/v1/model_pb";
import { Badge } from "./layout";

export const StateBadge = ({ status }: { status: ModelStatus }) => (
  <Badge
    tone={
      status.state === ModelState.SERVING
        ? "good"
        : status.state === ModelState.DEGRADED
          ? "bad"
          : "weak"
    }
  >
    {enumLabel(ModelState[status.state])}
  </Badge>
);
