using System.CommandLine;
using Wayleave.Cli.Output;
using Wayleave.Host;
using Wayleave.Host.Control;

namespace Wayleave.Cli.Commands;

/// <summary><c>wayleave top</c>: what a host does, again and again.</summary>
internal static class TopCommand
{
    private static readonly TimeSpan s_defaultInterval = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan s_intervalMin = TimeSpan.FromMilliseconds(50);

    public static Command Create()
    {
        Argument<WlUrl?> url = Parsing.OptionalUrl("wl://HOST; default: the host that runs here");
        Option<TimeSpan?> interval = Parsing.DurationOption("--interval", "How often; 1s unless said otherwise");
        Option<int?> count = new("--count", "-n") { Description = "End after so many samples", HelpName = "N" };
        Command command = new("top", "Watch a host: devices, who reaches their memory, revokes, quarantine")
        {
            url, interval, count,
        };
        command.AddClientOptions();
        command.SetAction(async (parsed, cancellation) =>
        {
            TimeSpan pause = parsed.GetValue(interval) ?? s_defaultInterval;
            if (pause < s_intervalMin)
            {
                throw new UsageException($"--interval: at least {s_intervalMin.TotalMilliseconds:F0}ms");
            }

            if (parsed.GetValue(count) is <= 0)
            {
                throw new UsageException("--count: at least 1");
            }

            using ControlClient client = parsed.OpenClient(parsed.GetValue(url));
            CommandContext context = new(parsed);
            bool isLive = !context.IsJson && Terminal.IsOutputTerminal(parsed.InvocationConfiguration.Output);

            // The first sample before the screen changes: a host that is not there is told on the usual screen.
            ActivityDocument first = await client.GetActivityAsync(cancellation).ConfigureAwait(false);
            using LiveScreen? screen = isLive ? new LiveScreen(Console.Out, () => Terminal.Size) : null;
            await WatchAsync(context, client, screen, first, pause, parsed.GetValue(count), cancellation)
                .ConfigureAwait(false);
            return ExitCode.Done;
        });
        return command;
    }

    private static async Task WatchAsync(
        CommandContext context,
        ControlClient client,
        LiveScreen? screen,
        ActivityDocument first,
        TimeSpan pause,
        int? count,
        CancellationToken cancellation)
    {
        ActivityDocument? before = null;
        ActivityDocument now = first;
        for (long sample = 1; ; sample++)
        {
            Show(context, screen, now, before);
            if (sample == count || await IsQuitAsync(screen, pause, cancellation).ConfigureAwait(false))
            {
                return;
            }

            before = now;
            now = await client.GetActivityAsync(cancellation).ConfigureAwait(false);
            if (screen is null && !context.IsJson)
            {
                context.Out.WriteLine();
            }
        }
    }

    private static void Show(
        CommandContext context, LiveScreen? screen, ActivityDocument now, ActivityDocument? before)
    {
        if (context.IsJson)
        {
            context.WriteJson(now, ControlJson.Default.ActivityDocument);
            context.Out.Flush();
            return;
        }

        IReadOnlyList<string> lines = ActivityView.Render(now, before);
        if (screen is not null)
        {
            screen.Draw(lines);
            return;
        }

        foreach (string line in lines)
        {
            context.Out.WriteLine(line);
        }

        context.Out.Flush();
    }

    /// <summary>Waits until the next sample is due.</summary>
    /// <returns>Whether the user pressed <c>q</c>, or Ctrl-C on the live screen, which is its normal end.</returns>
    private static async Task<bool> IsQuitAsync(LiveScreen? screen, TimeSpan pause, CancellationToken cancellation)
    {
        try
        {
            long end = Environment.TickCount64 + (long)pause.TotalMilliseconds;
            while (screen is not null && !Console.IsInputRedirected && Environment.TickCount64 < end)
            {
                while (Console.KeyAvailable)
                {
                    if (Console.ReadKey(intercept: true).KeyChar is 'q' or 'Q')
                    {
                        return true;
                    }
                }

                await Task.Delay(TimeSpan.FromMilliseconds(50), cancellation).ConfigureAwait(false);
            }

            long rest = end - Environment.TickCount64;
            await Task.Delay(TimeSpan.FromMilliseconds(Math.Max(rest, 0)), cancellation).ConfigureAwait(false);
            return false;
        }
        catch (OperationCanceledException) when (screen is not null)
        {
            return true;
        }
    }
}
