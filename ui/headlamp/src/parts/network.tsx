// The drawing of how the nodes hang together. Nodes stand in rows; above a row runs the line to the controller, below it
// the line to the network between nodes, so that no line crosses a node however many there are.
import { Box, Typography, useTheme } from '@mui/material';
import { Edge, Graph, Vertex } from '../model/graph';
import { Verdict } from '../model/health';
import { useShade } from './values';

/** Sizes in the units of the drawing. */
const WIDTH = 190;
const LINE = 18;
const GAP = 26;
const TRUNK = 24;
const IN_A_ROW = 5;
/** Characters of a line of text that fit into a box. */
const FIT = 25;

const MARK: Record<Verdict, string> = {
  Healthy: '✓',
  Degraded: '!',
  Unknown: '?',
  Stale: '⌛',
  Unhealthy: '✕',
};

function fitted(text: string): string {
  return text.length > FIT ? `${text.slice(0, FIT - 1)}…` : text;
}

export function NetworkDrawing({ graph }: { graph: Graph }) {
  const { palette } = useTheme();
  const shade = useShade();
  const nodes = graph.vertices.filter(vertex => vertex.kind === 'node');
  const controller = graph.vertices.find(vertex => vertex.kind === 'controller');
  const columns = Math.max(1, Math.min(IN_A_ROW, nodes.length));
  const height = 14 + LINE * Math.max(1, ...nodes.map(node => node.label.length));
  const pitch = height + 2 * GAP + 16;
  const rows = Math.ceil(nodes.length / columns);
  const wide = TRUNK * 2 + columns * (WIDTH + GAP) - GAP;
  const top = controller ? 14 + LINE * controller.label.length + GAP : 0;
  const bottom = top + rows * pitch;
  const network = 34;

  const red = shade('error');
  const strokes: Record<Verdict, string> = {
    Healthy: shade('success'),
    Degraded: shade('warning'),
    Unknown: palette.text.secondary,
    Stale: red,
    Unhealthy: red,
  };
  const line = (up: boolean) =>
    up
      ? { stroke: palette.text.secondary, strokeWidth: 1.5 }
      : { stroke: red, strokeWidth: 2, strokeDasharray: '5 4' };
  const edge = (from: string, to: string): Edge | undefined =>
    graph.edges.find(one => one.from === from && one.to === to);

  const box = (vertex: Vertex, x: number, y: number) => (
    <g key={vertex.id}>
      <title>{vertex.label.join('\n')}</title>
      <rect
        x={x}
        y={y}
        width={WIDTH}
        height={14 + LINE * vertex.label.length}
        rx={6}
        fill={palette.background.paper}
        stroke={vertex.verdict ? strokes[vertex.verdict] : palette.divider}
        strokeWidth={2}
      />
      {vertex.label.map((text, number) => (
        <text
          key={number}
          x={x + 10}
          y={y + 6 + LINE * (number + 0.75)}
          fontSize={number === 0 ? 14 : 12}
          fontWeight={number === 0 ? 600 : 400}
          fill={number === 0 ? palette.text.primary : palette.text.secondary}
        >
          {fitted(text)}
        </text>
      ))}
      {vertex.verdict && (
        <text
          x={x + WIDTH - 10}
          y={y + 6 + LINE * 0.75}
          textAnchor="end"
          fontSize={14}
          fontWeight={700}
          fill={strokes[vertex.verdict]}
        >
          {MARK[vertex.verdict]}
        </text>
      )}
    </g>
  );

  const drawn = nodes.map((node, number) => {
    const x = TRUNK + (number % columns) * (WIDTH + GAP);
    const y = top + Math.floor(number / columns) * pitch + GAP;
    const middle = x + WIDTH / 2;
    const own = 14 + LINE * node.label.length;
    const link = edge(node.id, 'network');
    const watch = edge('controller', node.id);
    return (
      <g key={node.id}>
        {watch && <line x1={middle} x2={middle} y1={y - GAP / 2} y2={y} {...line(watch.up)} />}
        {link && (
          <>
            <line x1={middle} x2={middle} y1={y + own} y2={y + height + GAP} {...line(link.up)} />
            <text x={middle + 6} y={y + height + 15} fontSize={11} fill={palette.text.secondary}>
              {fitted(link.label)}
            </text>
          </>
        )}
        {box(node, x, y)}
      </g>
    );
  });

  const up = line(true);
  const buses = Array.from({ length: rows }, (_, row) => {
    const y = top + row * pitch;
    const last = Math.min(columns, nodes.length - row * columns) - 1;
    const right = TRUNK + last * (WIDTH + GAP) + WIDTH / 2;
    return (
      <g key={row}>
        {controller && <line x1={TRUNK / 2} x2={right} y1={y + GAP / 2} y2={y + GAP / 2} {...up} />}
        <line
          x1={TRUNK + WIDTH / 2}
          x2={wide - TRUNK / 2}
          y1={y + height + 2 * GAP}
          y2={y + height + 2 * GAP}
          {...up}
        />
      </g>
    );
  });

  const ill = nodes.filter(node => node.verdict !== 'Healthy').length;
  const told = `The network between ${nodes.length} nodes, of which ${ill} are not healthy; the table of agents says the same.`;
  return (
    <Box sx={{ overflowX: 'auto' }} tabIndex={0} role="group" aria-label="Drawing of the network">
      <svg
        role="img"
        aria-label={told}
        viewBox={`0 0 ${wide} ${bottom + network + 4}`}
        width={wide}
        style={{
          maxWidth: '100%',
          minWidth: Math.min(wide, 640),
          height: 'auto',
          fontFamily: 'inherit',
        }}
      >
        {controller && (
          <>
            <polyline
              points={`${TRUNK},${top / 2} ${TRUNK / 2},${top / 2} ${TRUNK / 2},${
                top + (rows - 1) * pitch + GAP / 2
              }`}
              fill="none"
              {...up}
            />
            {box(controller, TRUNK, 2)}
          </>
        )}
        {nodes.length > 0 && (
          <>
            <line
              x1={wide - TRUNK / 2}
              x2={wide - TRUNK / 2}
              y1={top + height + 2 * GAP}
              y2={bottom}
              {...up}
            />
            {buses}
            {drawn}
            <rect
              x={TRUNK}
              y={bottom}
              width={wide - TRUNK * 1.5}
              height={network}
              rx={network / 2}
              fill={palette.action.hover}
              stroke={palette.divider}
            />
            <text
              x={wide / 2}
              y={bottom + network / 2 + 5}
              textAnchor="middle"
              fontSize={13}
              fill={palette.text.primary}
            >
              network between nodes
            </text>
          </>
        )}
      </svg>
      {graph.omitted > 0 && <Typography>and {graph.omitted} healthier nodes</Typography>}
    </Box>
  );
}
