// Policies, and what nodes made of them.
import { Link, SimpleTable } from '@kinvolk/headlamp-plugin/lib/CommonComponents';
import { useRealization } from '../data';
import { NodeRealization, PolicyRow } from '../model/realization';
import { Counters, countersOf, RuleCounters, shortNumber, Statistics } from '../model/statistics';
import { ROUTES } from '../routes';
import { Label, NodeLink, NOTHING, VerdictLabel } from './values';

/** In a word how far the nodes are; each cell that is seen asks for its own policy. */
function RealizationLabel({ row }: { row: PolicyRow }) {
  const { data, problems, loading } = useRealization(row.uid, row.generation);
  if (loading) return <>…</>;
  if (!data) return <>{problems[0]}</>;
  const { verdict } = data.health;
  const realized = data.nodes.filter(node => node.state === 'Realized').length;
  const text = data.nodes.length === 0 ? 'No reports' : `${realized} of ${data.nodes.length} nodes`;
  return <VerdictLabel verdict={verdict} text={text} />;
}

function several(count: number, what: string): string {
  return `${shortNumber(count)} ${what}${count === 1 ? '' : 's'}`;
}

/** Packets, bytes and connections in a line. */
function Traffic({ counted }: { counted: Counters | undefined }) {
  if (!counted) return <>{NOTHING}</>;
  const { sessions, packets, bytes } = counted;
  return (
    <>
      {several(sessions, 'session')}, {several(packets, 'packet')}, {shortNumber(bytes)}B
    </>
  );
}

/** Counters of the rules of a policy of Antrea's own. */
export function RuleTable({ rules }: { rules: RuleCounters[] }) {
  return (
    <SimpleTable
      data={rules}
      emptyMessage="No rule has counted anything yet."
      columns={[
        { label: 'Rule', getter: (row: RuleCounters) => row.name || NOTHING, gridTemplate: '2fr' },
        { label: 'Sessions', datum: 'sessions', gridTemplate: 'auto', sort: true },
        { label: 'Packets', datum: 'packets', gridTemplate: 'auto', sort: true },
        { label: 'Bytes', datum: 'bytes', gridTemplate: 'auto', sort: true },
      ]}
    />
  );
}

interface PolicyTableProps {
  rows: PolicyRow[];
  empty: string;
  /** What was counted; absent where that is not shown. */
  statistics?: Statistics;
}

export function PolicyTable({ rows, empty, statistics }: PolicyTableProps) {
  const traffic = {
    label: 'Traffic',
    getter: (row: PolicyRow) => <Traffic counted={statistics && countersOf(statistics, row)} />,
    gridTemplate: 'auto',
  };
  return (
    <SimpleTable
      data={rows}
      emptyMessage={empty}
      columns={[
        {
          label: 'Name',
          getter: (row: PolicyRow) => (
            <Link routeName={ROUTES.policy.name} params={{ uid: row.uid }}>
              {row.source.name}
            </Link>
          ),
          gridTemplate: '2fr',
        },
        {
          label: 'Namespace',
          getter: (row: PolicyRow) => row.source.namespace || NOTHING,
          gridTemplate: '1fr',
        },
        { label: 'Kind', datum: 'kind', gridTemplate: 'auto' },
        { label: 'Ingress rules', datum: 'ingress', gridTemplate: 'auto' },
        { label: 'Egress rules', datum: 'egress', gridTemplate: 'auto' },
        {
          label: 'Realized',
          getter: (row: PolicyRow) => <RealizationLabel row={row} />,
          gridTemplate: 'auto',
        },
        ...(statistics ? [traffic] : []),
      ]}
    />
  );
}

const STATES = { Realized: 'success', Behind: 'warning', Failed: 'error' } as const;

export function RealizationTable({ nodes }: { nodes: NodeRealization[] }) {
  return (
    <SimpleTable
      data={nodes}
      emptyMessage="No node has reported. A policy that selects no pods is on no node."
      columns={[
        {
          label: 'Node',
          getter: (row: NodeRealization) => <NodeLink name={row.node} />,
          gridTemplate: 'auto',
        },
        {
          label: 'State',
          getter: (row: NodeRealization) => <Label status={STATES[row.state]}>{row.state}</Label>,
          gridTemplate: 'auto',
        },
        { label: 'Generation', datum: 'generation', gridTemplate: 'auto' },
        {
          label: 'Message',
          getter: (row: NodeRealization) => row.message || NOTHING,
          gridTemplate: '2fr',
        },
      ]}
    />
  );
}
