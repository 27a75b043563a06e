// The frame of a page, its cards and their smallest parts.
import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import { href } from "../url";

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

/** A titled section of a page, `span` of twelve columns wide. */
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

/** A number with its name and a note, such as a comparison. */
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
