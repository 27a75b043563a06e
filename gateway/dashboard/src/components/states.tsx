// The states of a call: loading, empty, failed, answered.
import { Code, ConnectError } from "@connectrpc/connect";
import { CircleAlert, Inbox, PlugZap, RefreshCw } from "lucide-preact";
import type { ComponentChildren } from "preact";

export function Loading() {
  return (
    <div class="state" role="status">
      <span class="bar" />
      <span class="bar" />
      <span class="bar" />
      <span class="unseen">Loading</span>
    </div>
  );
}

export function Empty({ children }: { children: ComponentChildren }) {
  return (
    <div class="state">
      <Inbox aria-hidden="true" />
      <p>{children}</p>
    </div>
  );
}

/** An error as text for the reader, with what to do next if there is something. */
export function explain(error: ConnectError): string {
  switch (error.code) {
    case Code.Unimplemented:
      return "This server does not offer this yet.";
    case Code.Unauthenticated:
      return "The server asks for an API key.";
    case Code.PermissionDenied:
      return "Your key may not do this.";
    case Code.NotFound:
      return error.rawMessage || "Not found.";
    case Code.InvalidArgument:
    case Code.FailedPrecondition:
      return error.rawMessage;
    case Code.Aborted:
      return "It was changed by another user meanwhile. Check the current state and try again.";
    case Code.Unavailable:
    case Code.Unknown:
      return "The service is not answering. The page retries every few seconds.";
    case Code.DeadlineExceeded:
      return "The service takes too long. The page retries every few seconds.";
    case Code.ResourceExhausted:
      return "The server is busy. The page retries every few seconds.";
    default:
      return error.rawMessage || "The service could not answer.";
  }
}

export function Problem({ error, retry }: { error: unknown; retry?: () => unknown }) {
  const problem = ConnectError.from(error);
  // A missing service or an unknown item is no failure, so it raises no alert.
  const absent = problem.code === Code.Unimplemented || problem.code === Code.NotFound;
  const Icon = problem.code === Code.Unimplemented ? PlugZap : absent ? Inbox : CircleAlert;
  return (
    <div class="state problem" role={absent ? "note" : "alert"} data-code={Code[problem.code]}>
      <Icon aria-hidden="true" />
      <p>{explain(problem)}</p>
      {retry && !absent && (
        <button type="button" onClick={() => void retry()}>
          <RefreshCw aria-hidden="true" /> Try again
        </button>
      )}
    </div>
  );
}

interface Query<T> {
  data: T | undefined;
  error: unknown;
  isFetching: boolean;
  refetch: () => unknown;
}

/** Renders the answer of a query, or the state that it is in instead. */
export function Answer<T>(props: {
  query: Query<T>;
  isEmpty?: (data: T) => boolean;
  emptyText?: string;
  children: (data: T) => ComponentChildren;
}) {
  const { data, error, isFetching, refetch } = props.query;
  if (error) return <Problem error={error} retry={refetch} />;
  if (data === undefined) return <Loading />;
  if (props.isEmpty?.(data))
    return <Empty>{props.emptyText ?? "Nothing matches the filters."}</Empty>;
  return (
    <div class="answer" aria-busy={isFetching}>
      {props.children(data)}
    </div>
  );
}
