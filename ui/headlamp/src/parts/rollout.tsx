// A change of the installation: what failed, what waits for a person, how far the nodes are, what would change.
import { SimpleTable } from '@kinvolk/headlamp-plugin/lib/CommonComponents';
import { Alert, AlertTitle, Box, Typography } from '@mui/material';
import { ReactNode } from 'react';
import {
  Failed,
  FieldDiff,
  Held,
  NodeProgress,
  PlannedChange,
  RolloutView,
  State,
  WaveProgress,
} from '../model/rollout';
import { useFilter } from './tables';
import { Ago, Label, NodeLink, NOTHING, Status, useShade } from './values';

const COLOURS: Record<State, Status> = {
  Failed: 'error',
  'Under way': 'warning',
  Waiting: '',
  Unknown: '',
  Done: 'success',
};

function StateLabel({ state }: { state: State }) {
  return <Label status={COLOURS[state]}>{state}</Label>;
}

interface NoteProps {
  severity: 'error' | 'warning';
  title: string;
  children: ReactNode;
}

function Note({ severity, title, children }: NoteProps) {
  return (
    <Alert
      severity={severity}
      variant="outlined"
      sx={{ marginBottom: 2, borderColor: `${severity}.main`, color: 'text.primary' }}
    >
      <AlertTitle component="div">{title}</AlertTitle>
      {children}
    </Alert>
  );
}

/** A command that can be copied. */
function Command({ children }: { children: string }) {
  return (
    <Box
      component="pre"
      sx={{ whiteSpace: 'pre-wrap', overflowWrap: 'anywhere', marginY: 1, userSelect: 'all' }}
    >
      {children}
    </Box>
  );
}

function patch(spec: object): string {
  const body = JSON.stringify({ spec });
  return `kubectl patch antreainstallation default --type merge -p '${body}'`;
}

function FailedNote({ failed }: { failed: Failed }) {
  const { version, node, check, message, at, canary, then } = failed;
  const where = canary ? `${node}, of the canary` : node;
  return (
    <Note severity="error" title={`The change to ${version} failed on ${where}`}>
      <div>
        {check}: {message}
      </div>
      <div>
        Found <Ago time={at} />. {then}
      </div>
    </Note>
  );
}

function HeldNote({ held }: { held: Held }) {
  const { generation, acknowledged } = held;
  return (
    <Note severity="warning" title="A disruptive change needs to be acknowledged">
      <div>
        While it is made, traffic between changed and unchanged nodes breaks. All of the spec waits
        for it. Look at the changes below; to have generation {generation} of the spec made:
      </div>
      <Command>{patch({ rollout: { acknowledge: generation } })}</Command>
      {acknowledged !== null && (
        <div>Acknowledged is {acknowledged}, which was another change: it does not count here.</div>
      )}
    </Note>
  );
}

/** What a person has to know or to do. */
export function RolloutNotes({ view }: { view: RolloutView }) {
  return (
    <>
      {view.failed && <FailedNote failed={view.failed} />}
      {view.held && <HeldNote held={view.held} />}
      {view.paused && (
        <Note severity="warning" title="The installation is paused">
          <div>The operator touches nothing. To have it act on the spec again:</div>
          <Command>{patch({ managementState: 'Managed' })}</Command>
        </Note>
      )}
    </>
  );
}

export function WaveTable({ waves }: { waves: WaveProgress[] }) {
  const named = ({ first, nodes }: WaveProgress) =>
    first.join(', ') + (nodes > first.length ? ` and ${nodes - first.length} more` : '');
  return (
    <SimpleTable
      data={waves}
      emptyMessage="The order of nodes is not known."
      columns={[
        { label: 'Wave', datum: 'name', gridTemplate: 'auto' },
        {
          label: 'State',
          getter: (row: WaveProgress) => <StateLabel state={row.state} />,
          gridTemplate: 'auto',
        },
        {
          label: 'Done',
          getter: (row: WaveProgress) => `${row.done ?? '?'} of ${row.nodes}`,
          gridTemplate: 'auto',
        },
        { label: 'Nodes', getter: named, gridTemplate: '2fr' },
        {
          label: 'Why',
          getter: (row: WaveProgress) => row.why || NOTHING,
          gridTemplate: '2fr',
        },
      ]}
    />
  );
}

export function NodeProgressTable({ nodes }: { nodes: NodeProgress[] }) {
  const [field, rows] = useFilter('Filter by node, wave or state', nodes, row => [
    row.node,
    row.wave,
    row.state,
  ]);
  return (
    <>
      {field}
      <SimpleTable
        data={rows}
        emptyMessage="No node runs an agent."
        columns={[
          {
            label: 'Node',
            getter: (row: NodeProgress) => <NodeLink name={row.node} />,
            gridTemplate: 'auto',
          },
          {
            label: 'Wave',
            getter: (row: NodeProgress) => row.wave || NOTHING,
            gridTemplate: 'auto',
          },
          {
            label: 'State',
            getter: (row: NodeProgress) => <StateLabel state={row.state} />,
            gridTemplate: 'auto',
          },
          {
            label: 'Away since',
            getter: (row: NodeProgress) => <Ago time={row.since} />,
            gridTemplate: 'auto',
          },
          {
            label: 'Why',
            getter: (row: NodeProgress) => row.why || NOTHING,
            gridTemplate: '3fr',
          },
        ]}
      />
    </>
  );
}

/** A field as a diff has it. */
function Diff({ field }: { field: FieldDiff }) {
  const shade = useShade();
  return (
    <Box sx={{ marginTop: 1 }}>
      <Typography component="h4" variant="body2" sx={{ fontFamily: 'monospace', fontWeight: 600 }}>
        {field.path}
      </Typography>
      {field.lines.map(({ sign, text }, number) => (
        <Box
          key={number}
          component={sign === '-' ? 'del' : 'ins'}
          sx={{
            display: 'block',
            fontFamily: 'monospace',
            fontSize: '0.875rem',
            whiteSpace: 'pre-wrap',
            overflowWrap: 'anywhere',
            textDecoration: 'none',
            borderLeft: 4,
            borderColor: shade(sign === '-' ? 'error' : 'success'),
            paddingLeft: 1,
          }}
        >
          {sign} {text}
        </Box>
      ))}
    </Box>
  );
}

const SIGNS: Record<string, string> = { Create: '+', Delete: '−' };

/** What would change, with what that does to traffic. */
export function Plan({ view }: { view: RolloutView }) {
  if (view.changes.length === 0) return <Typography>There are none.</Typography>;
  return (
    <>
      {view.effects.map(({ class: class_, effect }) => (
        <Typography key={class_} sx={{ marginBottom: 1 }}>
          <strong>{class_}</strong>: {effect}
        </Typography>
      ))}
      {view.changes.map((change: PlannedChange) => (
        <Box key={`${change.action} ${change.object}`} sx={{ marginTop: 3 }}>
          <Box sx={{ display: 'flex', flexWrap: 'wrap', alignItems: 'center', gap: 1 }}>
            <Typography component="h3" variant="subtitle1" sx={{ fontWeight: 600 }}>
              {SIGNS[change.action] ?? '~'} {change.object}
            </Typography>
            <Label status={change.class === 'Disruptive' ? 'error' : ''}>{change.class}</Label>
            <span>{change.action}</span>
          </Box>
          {change.fields.map(field => (
            <Diff key={field.path} field={field} />
          ))}
        </Box>
      ))}
    </>
  );
}
