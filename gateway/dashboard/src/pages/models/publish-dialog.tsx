// Asks for confirmation before a version is made current.
import { ConnectError } from "@connectrpc/connect";
import { useEffect, useRef, useState } from "preact/hooks";
import { explain } from "../../components/states";
import { mutate, queryClient } from "../../data/api";
import { day, enumLabel } from "../../format";
import { ModelService, type ModelVersion } from "../../gen/shopkeeper/model/v1/model_pb";

export function PublishDialog(props: {
  model: string;
  version: ModelVersion;
  current?: ModelVersion;
  /** Called when the dialog closes, with a message if the version was made current. */
  onEnd: (message?: string) => void;
}) {
  const { model, version, current, onEnd } = props;
  const dialogRef = useRef<HTMLDialogElement>(null);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  useEffect(() => dialogRef.current?.showModal(), []);
  async function run() {
    setBusy(true);
    setProblem("");
    try {
      await mutate(ModelService.method.setCurrentVersion, {
        model,
        version: version.version,
        expectedVersion: current?.version ?? "",
      });
      onEnd(`${version.version} is the current version. Services load it within seconds.`);
    } catch (error) {
      setProblem(explain(ConnectError.from(error)));
      setBusy(false);
    }
    // Cached answers are those of the previous version.
    void queryClient.invalidateQueries();
  }
  const older =
    current && Number(version.asOf?.seconds ?? 0n) < Number(current.asOf?.seconds ?? 0n);
  return (
    <dialog ref={dialogRef} aria-labelledby="publish-title" onClose={() => onEnd()}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void run();
        }}
      >
        <h2 id="publish-title">Make this version current?</h2>
        <dl class="pairs">
          <dt>Model</dt>
          <dd>{enumLabel(model)}</dd>
          <dt>From</dt>
          <dd class="breaks">
            {current ? `${current.version}, as of ${day(current.asOf)}` : "none"}
          </dd>
          <dt>To</dt>
          <dd class="breaks">
            {version.version}, as of {day(version.asOf)}
          </dd>
        </dl>
        <p>
          Every service that follows this store will serve this version.
          {older && " It is older than the current version and does not include later lines."}
        </p>
        {problem && (
          <p class="bad" role="alert">
            {problem}
          </p>
        )}
        <div class="buttons">
          <button type="button" onClick={() => dialogRef.current?.close()}>
            Cancel
          </button>
          <button type="submit" class="primary" disabled={busy}>
            Make current
          </button>
        </div>
      </form>
    </dialog>
  );
}
