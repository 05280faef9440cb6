using System.Globalization;
using Wayleave.Host;

namespace Wayleave.Cli.Output;

// As scp shows it, rewritten in place, and the last line stays:
//
//   model.bin                     43%  110 MiB   1.21 GiB/s   00:01 ETA
//   model.bin                    100%  256 MiB   1.20 GiB/s   00:00

/// <summary>How far a transfer is. Threads may report; nothing is drawn more often than ten times a second.</summary>
internal sealed class ProgressBar : IDisposable
{
    private static readonly TimeSpan s_period = TimeSpan.FromMilliseconds(100);

    private readonly TextWriter _error;
    private readonly string _name;
    private readonly long _totalBytes;
    private readonly bool _isVisible;
    private readonly TimeProvider _clock;
    private readonly Func<int> _width;
    private long _startedAt;
    private readonly Lock _lock = new();
    private long _bytes;
    private TimeSpan _drawnAt = TimeSpan.MinValue;
    private TimeSpan? _completeAt; // what follows, such as a checksum at the other end, moves no byte
    private int _drawnWidth;
    private bool _isOver;

    public ProgressBar(
        TextWriter error, string name, long totalBytes, bool isVisible, TimeProvider clock, Func<int>? width = null)
    {
        (_error, _name, _totalBytes, _isVisible, _clock) = (error, name, totalBytes, isVisible, clock);
        _width = width ?? (() => Terminal.Width);
        _startedAt = clock.GetTimestamp();
    }

    /// <summary>
    /// Starts to count anew: what came before, such as reading a file, was no part of what is measured.
    /// </summary>
    public void Restart()
    {
        lock (_lock)
        {
            _startedAt = _clock.GetTimestamp();
            (_bytes, _drawnAt, _completeAt) = (0, TimeSpan.MinValue, null);
        }
    }

    /// <summary>Writes lines that stay, where the bar is now; the bar goes on below them.</summary>
    /// <param name="write">Writes whole lines, perhaps to another stream of the same terminal.</param>
    public void WriteAbove(Action write)
    {
        lock (_lock)
        {
            bool isDrawn = _isVisible && !_isOver && _drawnAt != TimeSpan.MinValue;
            if (isDrawn)
            {
                _error.Write("\r" + new string(' ', _drawnWidth) + "\r");
                _error.Flush();
            }

            write();
            if (isDrawn)
            {
                Draw(_clock.GetElapsedTime(_startedAt), isLast: false);
            }
        }
    }

    /// <summary>Draws, if it is time to.</summary>
    /// <param name="bytes">How much is done; not less than before.</param>
    public void Report(long bytes)
    {
        lock (_lock)
        {
            TimeSpan now = _clock.GetElapsedTime(_startedAt);
            _bytes = Math.Max(_bytes, bytes);
            _completeAt ??= _bytes >= _totalBytes ? now : null;
            if (_isVisible && !_isOver && (_drawnAt == TimeSpan.MinValue || now - _drawnAt >= s_period))
            {
                _drawnAt = now;
                Draw(now, isLast: false);
            }
        }
    }

    /// <summary>Draws the last line, which stays: complete, or as far as it came.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            if (_isVisible && !_isOver)
            {
                Draw(_completeAt ?? _clock.GetElapsedTime(_startedAt), isLast: true);
                _error.WriteLine();
            }

            _isOver = true;
        }
    }

    private void Draw(TimeSpan now, bool isLast)
    {
        double seconds = now.TotalSeconds;
        double rate = seconds > 0 ? _bytes / seconds : 0;
        int percent = _totalBytes == 0 ? 100 : (int)(100.0 * _bytes / _totalBytes);
        string time = isLast ? FormatTime(now) + "    "
            : rate > 0 ? FormatTime(TimeSpan.FromSeconds(Math.Min((_totalBytes - _bytes) / rate, 359_999))) + " ETA"
            : "--:-- ETA";
        string figures = string.Create(
            CultureInfo.InvariantCulture,
            $"{percent,4}% {ByteSize.Format(_bytes),9} {ByteSize.Format(rate) + "/s",12} {time,10}");
        int room = Math.Max(_width() - figures.Length - 1, 4);
        string name = _name.Length <= room ? _name.PadRight(room) : _name[..(room - 3)] + "...";
        _drawnWidth = name.Length + figures.Length;
        _error.Write("\r" + name + figures);
        _error.Flush();
    }

    private static string FormatTime(TimeSpan time) => time.TotalHours >= 1
        ? string.Create(CultureInfo.InvariantCulture, $"{(int)time.TotalHours}:{time.Minutes:00}:{time.Seconds:00}")
        : string.Create(CultureInfo.InvariantCulture, $"{time.Minutes:00}:{time.Seconds:00}");
}
