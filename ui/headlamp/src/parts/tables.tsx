// Tables that several pages show.
import { NameValueTable, SimpleTable } from '@kinvolk/headlamp-plugin/lib/CommonComponents';
import { Box, LinearProgress, TextField, Typography } from '@mui/material';
import { ReactNode, useState } from 'react';
import { Condition, Verdict } from '../model/health';
import { AgentRow, ControllerRow, PolicyCounts } from '../model/rows';
import {
  AgentLink,
  Ago,
  ConditionStatus,
  HealthValue,
  Lines,
  NodeLink,
  NOTHING,
  ObjectLink,
  VerdictLabel,
} from './values';

/** A name and its value, either of which may be a part of a page. */
export type Fact = [name: string, value: ReactNode];

export function Facts({ facts }: { facts: Fact[] }) {
  return (
    <NameValueTable
      rows={facts.map(([name, value]) => ({ name, value: value === '' ? NOTHING : value }))}
    />
  );
}

interface ConditionsProps {
  conditions: Condition[];
  /** The verdict on whose conditions they are. */
  verdict: Verdict;
}

/** Conditions. Those of a component that is silent say nothing of the present, and do not look as if they did. */
export function Conditions({ conditions, verdict }: ConditionsProps) {
  const old = verdict === 'Stale';
  return (
    <>
      {old && (
        <Typography sx={{ marginBottom: 2 }}>
          What was told last. Whether it still holds is not known, for the heartbeat is old.
        </Typography>
      )}
      <SimpleTable
        data={conditions}
        emptyMessage="No condition has been told yet."
        columns={[
          { label: 'Condition', datum: 'type', gridTemplate: 'auto' },
          {
            label: 'Status',
            getter: (row: Condition) => (
              <ConditionStatus type={row.type} status={row.status} old={old} />
            ),
            gridTemplate: 'auto',
          },
          {
            label: 'Reason',
            getter: (row: Condition) => row.reason || NOTHING,
            gridTemplate: 'auto',
          },
          {
            label: 'Message',
            getter: (row: Condition) => row.message || NOTHING,
            gridTemplate: '2fr',
          },
        ]}
      />
    </>
  );
}

export function policyFacts(policies: PolicyCounts): Fact[] {
  return [
    ['NetworkPolicies', policies.networkPolicies],
    ['AddressGroups', policies.addressGroups],
    ['AppliedToGroups', policies.appliedToGroups],
  ];
}

export function controllerFacts(row: ControllerRow): Fact[] {
  return [
    ['Health', <HealthValue key="" health={row.health} />],
    ['Last heartbeat', <Ago key="" time={row.heartbeat} />],
    ['Version', row.version],
    ['Connected agents', row.connectedAgents],
    ['Pod', <ObjectLink key="" kind="pod" name={row.pod} />],
    ['Node', <NodeLink key="" name={row.node} />],
    ['Service', <ObjectLink key="" kind="service" name={row.service} />],
  ];
}

export function agentFacts(row: AgentRow): Fact[] {
  return [
    ['Health', <HealthValue key="" health={row.health} />],
    ['Last heartbeat', <Ago key="" time={row.heartbeat} />],
    [
      'Version',
      row.versionDiffers ? `${row.version}, the controller has another one` : row.version,
    ],
    ['Pod', <ObjectLink key="" kind="pod" name={row.pod} />],
    ['Node', <NodeLink key="" name={row.node || row.name} />],
    ['Pods', row.localPods],
    ...policyFacts(row.policies),
  ];
}

export function networkFacts(row: AgentRow): Fact[] {
  const { network } = row;
  return [
    ['Pod subnets', <Lines key="" values={row.subnets} />],
    ['Interface between nodes', network?.interface ?? ''],
    ['Its addresses', <Lines key="" values={network?.addresses ?? []} />],
    ['Its MTU', network ? `${network.mtu} bytes` : ''],
    ['MTU of pods', network ? `${network.podMTU} bytes` : ''],
    ['Bridge', row.bridge],
    ['Open vSwitch', row.ovsVersion],
  ];
}

interface BarProps {
  label: string;
  value: number;
  of: number;
  color?: 'primary' | 'success' | 'warning';
}

/** A share, drawn. The numbers stand beside it. */
export function Bar({ label, value, of, color = 'primary' }: BarProps) {
  return (
    <LinearProgress
      variant="determinate"
      aria-label={label}
      color={color}
      value={of > 0 ? Math.min(100, (100 * value) / of) : 0}
      sx={{ marginTop: 0.75, height: 8, borderRadius: 4, backgroundColor: 'action.selected' }}
    />
  );
}

export function FlowTables({ row }: { row: AgentRow }) {
  const most = Math.max(1, ...row.flowTables.map(table => table.flows));
  return (
    <SimpleTable
      data={row.flowTables}
      emptyMessage="Open vSwitch has told of no tables."
      columns={[
        { label: 'Table', datum: 'name', gridTemplate: 'auto', sort: true },
        { label: 'Flows', datum: 'flows', gridTemplate: 'auto', sort: true },
        {
          label: 'Share of the largest',
          getter: (table: AgentRow['flowTables'][number]) => (
            <Bar label={`Flows of ${table.name}`} value={table.flows} of={most} />
          ),
          gridTemplate: '3fr',
        },
      ]}
    />
  );
}

/**
 * A field by whose text rows are chosen, with how many are shown; `textsOf` is what is searched. Gives those that fit.
 */
export function useFilter<T>(
  label: string,
  rows: T[],
  textsOf: (row: T) => string[]
): [ReactNode, T[]] {
  const [wanted, setWanted] = useState('');
  const lower = wanted.trim().toLowerCase();
  const fitting = rows.filter(row => textsOf(row).some(text => text.toLowerCase().includes(lower)));
  const field = (
    <Box sx={{ display: 'flex', flexWrap: 'wrap', alignItems: 'end', gap: 2, marginBottom: 2 }}>
      <TextField
        label={label}
        size="small"
        type="search"
        value={wanted}
        onChange={event => setWanted(event.target.value)}
        sx={{ minWidth: 320 }}
      />
      <Typography role="status">
        {fitting.length} of {rows.length}
      </Typography>
    </Box>
  );
  return [field, fitting];
}

export function AgentTable({ rows }: { rows: AgentRow[] }) {
  return (
    <SimpleTable
      data={rows}
      emptyMessage="There are no agents."
      columns={[
        {
          label: 'Agent',
          getter: (row: AgentRow) => <AgentLink name={row.name} />,
          gridTemplate: 'auto',
          sort: (a: AgentRow, b: AgentRow) => (a.name < b.name ? -1 : 1),
        },
        {
          label: 'Health',
          getter: (row: AgentRow) => <VerdictLabel verdict={row.health.verdict} />,
          gridTemplate: 'auto',
        },
        {
          label: 'Reason',
          getter: (row: AgentRow) => row.health.reason || NOTHING,
          gridTemplate: '2fr',
        },
        {
          label: 'Heartbeat',
          getter: (row: AgentRow) => <Ago time={row.heartbeat} />,
          gridTemplate: 'auto',
        },
        {
          label: 'Version',
          getter: (row: AgentRow) =>
            row.versionDiffers ? (
              <VerdictLabel verdict="Degraded" text={row.version} />
            ) : (
              row.version || NOTHING
            ),
          gridTemplate: 'auto',
        },
        {
          label: 'Pods',
          datum: 'localPods',
          gridTemplate: 'auto',
          sort: (a: AgentRow, b: AgentRow) => a.localPods - b.localPods,
        },
        {
          label: 'Flows',
          datum: 'flows',
          gridTemplate: 'auto',
          sort: (a: AgentRow, b: AgentRow) => a.flows - b.flows,
        },
        {
          label: 'Pod subnets',
          getter: (row: AgentRow) => <Lines values={row.subnets} />,
          gridTemplate: 'auto',
        },
      ]}
    />
  );
}
