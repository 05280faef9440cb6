using System.Globalization;
using Wayleave.Cli.Output;
using Wayleave.Simulation;

namespace Wayleave.Cli.Commands;

/// <summary>How far a search is, rewritten in place on a terminal's stderr and gone when it ends.</summary>
internal sealed class CheckProgress : IDisposable
{
    private const int RunsBetweenLooks = 64; // at the clock
    private static readonly TimeSpan s_period = TimeSpan.FromMilliseconds(100);

    private readonly TextWriter _error;
    private readonly TimeProvider _clock;
    private readonly string _name;
    private readonly bool _isVisible;
    private readonly long _start;
    private TimeSpan _drawnAt;
    private int _drawn;

    public CheckProgress(CommandContext context, TimeProvider clock, string name)
    {
        (_error, _clock, _name) = (context.Error, clock, name);
        _isVisible = !context.IsJson && Terminal.IsErrorTerminal(context.Error);
        _start = clock.GetTimestamp();
    }

    /// <summary>Draws, if it is time to.</summary>
    public void Report(Exploration counts)
    {
        if (!_isVisible || counts.Runs % RunsBetweenLooks != 0)
        {
            return;
        }

        TimeSpan now = _clock.GetElapsedTime(_start);
        if (now - _drawnAt >= s_period)
        {
            _drawnAt = now;
            string line = string.Create(
                CultureInfo.InvariantCulture, $"{_name}  {counts.Runs} orders  {now.TotalSeconds:F0} s");
            _error.Write("\r" + line.PadRight(_drawn));
            _error.Flush();
            _drawn = line.Length;
        }
    }

    public void Dispose()
    {
        if (_drawn > 0)
        {
            _error.Write("\r" + new string(' ', _drawn) + "\r");
            _error.Flush();
            _drawn = 0;
        }
    }
}
