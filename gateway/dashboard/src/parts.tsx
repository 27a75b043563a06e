// What pages are made of.
import { Code, ConnectError } from "@connectrpc/connect";
import { CircleAlert, Inbox, PlugZap, RefreshCw } from "lucide-preact";
import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { filter, href, setFilters } from "./url";

export function Page(props: {
  title: string;
  lead: string;
  filters?: ComponentChildren;
  children: ComponentChildren;
}) {
  useEffect(() => {
    document.title = `${props.title} · Shopkeeper`;
  }, [props.title]);
  return (
    <>
      <header class="page-head">
        <h1>{props.title}</h1>
        <p>{props.lead}</p>
        {props.filters && (
          <form class="filters" aria-label="Filters" onSubmit={(event) => event.preventDefault()}>
            {props.filters}
          </form>
        )}
      </header>
      {props.children}
    </>
  );
}

/** A titled part of a page; `span` is its share of twelve columns. */
export function Card(props: {
  title: string;
  note?: ComponentChildren;
  span?: 3 | 4 | 5 | 6 | 7 | 8 | 12;
  actions?: ComponentChildren;
  children: ComponentChildren;
}) {
  return (
    <section class={`card span-${props.span ?? 12}`}>
      <div class="card-head">
        <div>
          <h2>{props.title}</h2>
          {props.note && <p class="quiet">{props.note}</p>}
        </div>
        {props.actions}
      </div>
      {props.children}
    </section>
  );
}

/** A figure with its name, unit and what it is compared with. */
export function Figure(props: {
  name: string;
  value: string;
  note?: ComponentChildren;
  tone?: "good" | "bad";
}) {
  return (
    <div class="figure">
      <dt>{props.name}</dt>
      <dd>
        <strong>{props.value}</strong>
        {props.note && <span class={props.tone ?? "quiet"}>{props.note}</span>}
      </dd>
    </div>
  );
}

export function Badge({
  tone,
  children,
}: {
  tone: "good" | "bad" | "weak" | "plain";
  children: ComponentChildren;
}) {
  return <span class={`badge ${tone}`}>{children}</span>;
}

export const CustomerLink = ({ id }: { id: string }) =>
  id ? <a href={href("customer", { id })}>{id}</a> : <>–</>;
export const ProductLink = ({ code }: { code: string }) =>
  code ? <a href={href("recommendations", { by: "product", product: code })}>{code}</a> : <>–</>;

// --- states -----------------------------------------------------------------------------------------------------------

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

/** What went wrong, in words that say what the reader can do. */
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
      return "Somebody else has changed it meanwhile. Look again, and decide again.";
    case Code.Unavailable:
    case Code.Unknown:
      return "The service is not answering. It is asked again every few seconds.";
    case Code.DeadlineExceeded:
      return "The service takes too long. It is asked again every few seconds.";
    case Code.ResourceExhausted:
      return "The server is busy. It is asked again every few seconds.";
    default:
      return error.rawMessage || "The service could not answer.";
  }
}
export function Problem({ error, retry }: { error: unknown; retry?: () => unknown }) {
  const problem = ConnectError.from(error);
  // Nothing is wrong where the server or the model knows of no such thing.
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
/** An answer in whichever state it is. */
export function Answer<T>(props: {
  of: Query<T>;
  empty?: (data: T) => boolean;
  nothing?: string;
  children: (data: T) => ComponentChildren;
}) {
  const { data, error, isFetching, refetch } = props.of;
  if (error) return <Problem error={error} retry={refetch} />;
  if (data === undefined) return <Loading />;
  if (props.empty?.(data)) return <Empty>{props.nothing ?? "Nothing matches the filters."}</Empty>;
  return (
    <div class="answer" aria-busy={isFetching}>
      {props.children(data)}
    </div>
  );
}

// --- filters ----------------------------------------------------------------------------------------------------------

export function SelectFilter(props: {
  name: string;
  label: string;
  options: [value: string, label: string][];
  otherwise?: string;
}) {
  return (
    <label>
      {props.label}
      <select
        value={filter(props.name, props.otherwise)}
        onChange={(event) =>
          setFilters({
            [props.name]:
              event.currentTarget.value === props.otherwise ? undefined : event.currentTarget.value,
          })
        }
      >
        {props.options.map(([value, label]) => (
          <option key={value} value={value}>
            {label}
          </option>
        ))}
      </select>
    </label>
  );
}

export function NumberFilter(props: {
  name: string;
  label: string;
  otherwise: number;
  least: number;
  most: number;
  step?: number;
  unit?: string;
}) {
  return (
    <label>
      {props.label}
      <span class="with-unit">
        <input
          type="number"
          inputMode="decimal"
          min={props.least}
          max={props.most}
          step={props.step ?? 1}
          value={filter(props.name, String(props.otherwise))}
          onChange={(event) => setFilters({ [props.name]: event.currentTarget.value })}
        />
        {props.unit}
      </span>
    </label>
  );
}

/** Text that becomes a filter once the reader pauses or presses Enter. */
export function TextFilter(props: {
  name: string;
  label: string;
  placeholder?: string;
  list?: string;
  onText?: (text: string) => void;
}) {
  const { name } = props;
  const set = filter(name);
  const [text, setText] = useState(set);
  useEffect(() => setText(set), [set]);
  useEffect(() => {
    if (text === set) return;
    const pause = setTimeout(() => setFilters({ [name]: text.trim() }, true), 500);
    return () => clearTimeout(pause);
  }, [name, set, text]);
  return (
    <label>
      {props.label}
      <input
        type="search"
        autoComplete="off"
        spellcheck={false}
        placeholder={props.placeholder}
        list={props.list}
        value={text}
        onInput={(event) => {
          setText(event.currentTarget.value);
          props.onText?.(event.currentTarget.value);
        }}
        onKeyDown={(event) => event.key === "Enter" && setFilters({ [name]: text.trim() })}
      />
    </label>
  );
}

/** A choice of a few, as a row of buttons. */
export function Choice(props: {
  name: string;
  label: string;
  options: [value: string, label: string][];
  otherwise: string;
}) {
  const chosen = filter(props.name, props.otherwise);
  return (
    <fieldset class="choice">
      <legend>{props.label}</legend>
      {props.options.map(([value, label]) => (
        <button
          type="button"
          key={value}
          aria-pressed={value === chosen}
          onClick={() =>
            setFilters({ [props.name]: value === props.otherwise ? undefined : value })
          }
        >
          {label}
        </button>
      ))}
    </fieldset>
  );
}
