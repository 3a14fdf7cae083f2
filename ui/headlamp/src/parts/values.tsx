// Single values: verdicts, times, links.
import { Link, StatusLabel } from '@kinvolk/headlamp-plugin/lib/CommonComponents';
import { Box, useTheme } from '@mui/material';
import { ReactNode } from 'react';
import { Health, Verdict, words } from '../model/health';
import { ObjectName } from '../model/rows';
import { ROUTES } from '../routes';

export type Status = 'success' | 'warning' | 'error' | '';

const STATUS: Record<Verdict, Status> = {
  Healthy: 'success',
  Degraded: 'warning',
  Unknown: '',
  Stale: 'error',
  Unhealthy: 'error',
};

/** Shades that are told from the background in both modes. */
export function useShade(): (name: Exclude<Status, ''>) => string {
  const { palette } = useTheme();
  return name => {
    const shades: Partial<Record<string, string>> = { ...palette[name] };
    return shades[palette.mode === 'dark' ? 300 : 800] ?? palette[name].main;
  };
}

/** What stands where there is nothing. */
export const NOTHING = '–';

/** A label as high as the text beside it. */
export function Label({ status, children }: { status: Status; children: ReactNode }) {
  return (
    <StatusLabel status={status} sx={{ paddingTop: 0, paddingBottom: 0 }}>
      {children}
    </StatusLabel>
  );
}

/** The verdict in a word. Colour only repeats it. */
export function VerdictLabel({ verdict, text = verdict }: { verdict: Verdict; text?: string }) {
  return <Label status={STATUS[verdict]}>{text}</Label>;
}

/** The verdict with its reason. */
export function HealthValue({ health }: { health: Health }) {
  return (
    <Box sx={{ display: 'flex', flexWrap: 'wrap', alignItems: 'center', gap: 1 }}>
      <VerdictLabel verdict={health.verdict} />
      {health.reason && <span>{health.reason}</span>}
    </Box>
  );
}

/** The status of a condition; which one is good depends on the condition, and of an old one none is. */
export function ConditionStatus({
  type,
  status,
  old,
}: {
  type: string;
  status: string;
  old: boolean;
}) {
  if (old) return <Label status="">{status}</Label>;
  // Of these, True is bad, or is no fault.
  const bad: Record<string, Status> = { Degraded: 'error', Progressing: 'warning' };
  const isTrue = status === 'True';
  const good = type in bad ? status === 'False' : isTrue;
  const colour = good
    ? 'success'
    : type in bad && isTrue
    ? bad[type]
    : status === 'False'
    ? 'error'
    : '';
  return <Label status={colour}>{status}</Label>;
}

/** How long ago; the exact time is told to those who point at it or listen. */
export function Ago({ time }: { time: string | null }) {
  if (!time) return <>{NOTHING}</>;
  const age = Date.now() - Date.parse(time);
  const text = age < 0 ? `in ${words(-age)}` : `${words(age)} ago`;
  return (
    <time dateTime={time} title={new Date(time).toLocaleString()}>
      {text}
    </time>
  );
}

export function NodeLink({ name }: { name: string }) {
  if (!name) return <>{NOTHING}</>;
  return (
    <Link routeName="node" params={{ name }}>
      {name}
    </Link>
  );
}

/** A link to a Pod or a Service. */
export function ObjectLink({ kind, name }: { kind: 'pod' | 'service'; name: ObjectName | null }) {
  if (!name) return <>{NOTHING}</>;
  return (
    <Link routeName={kind} params={{ namespace: name.namespace, name: name.name }}>
      {name.namespace}/{name.name}
    </Link>
  );
}

export function AgentLink({ name }: { name: string }) {
  return (
    <Link routeName={ROUTES.agent.name} params={{ name }}>
      {name}
    </Link>
  );
}

/** Several values, each on its line. */
export function Lines({ values }: { values: string[] }) {
  if (values.length === 0) return <>{NOTHING}</>;
  return (
    <>
      {values.map(value => (
        <div key={value}>{value}</div>
      ))}
    </>
  );
}
