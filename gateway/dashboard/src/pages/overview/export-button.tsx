// Downloads the filtered lines as CSV or Parquet.
import { ConnectError, createClient } from "@connectrpc/connect";
import { Download } from "lucide-preact";
import { useState } from "preact/hooks";
import { transport } from "../../data/api";
import { useRange } from "../../data/queries";
import { save } from "../../download";
import { percent } from "../../format";
import { ExportFormat, InsightsService } from "../../gen/shopkeeper/insights/v1/insights_pb";
import { filter, setFilters } from "../../url";

export function ExportButton() {
  const range = useRange();
  const [state, setState] = useState<{ progress?: number; problem?: string }>({});
  const parquet = filter("format") === "parquet";
  async function run() {
    setState({ progress: 0 });
    try {
      const chunks: BlobPart[] = [];
      const format = parquet ? ExportFormat.PARQUET : ExportFormat.CSV;
      const lines = createClient(InsightsService, transport).exportTransactions(
        { ...range, format },
        { timeoutMs: 600_000 },
      );
      for await (const chunk of lines) {
        chunks.push(chunk.data as Uint8Array<ArrayBuffer>);
        setState({ progress: Number(chunk.rows) / Math.max(1, Number(chunk.totalRows)) });
      }
      save(
        `transactions.${parquet ? "parquet" : "csv"}`,
        chunks,
        parquet ? "application/vnd.apache.parquet" : "text/csv",
      );
      setState({});
    } catch (error) {
      setState({ problem: ConnectError.from(error).rawMessage });
    }
  }
  return (
    <>
      <label>
        Download as
        <select
          value={parquet ? "parquet" : "csv"}
          onChange={(e) =>
            setFilters({ format: e.currentTarget.value === "csv" ? undefined : "parquet" })
          }
        >
          <option value="csv">CSV</option>
          <option value="parquet">Parquet</option>
        </select>
      </label>
      <button type="button" disabled={state.progress !== undefined} onClick={() => void run()}>
        <Download aria-hidden="true" />
        {state.progress === undefined
          ? "Download lines"
          : `Downloading ${percent(state.progress, 0)}`}
      </button>
      {state.problem && (
        <span class="bad" role="alert">
          {state.problem}
        </span>
      )}
    </>
  );
}
