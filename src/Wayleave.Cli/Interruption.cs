using System.Runtime.InteropServices;

namespace Wayleave.Cli;

/// <summary>
/// Ctrl-C, SIGTERM and SIGHUP become one token, so that a command cleans up and ends by itself. A second signal ends
/// the process at once, for commands that hang while they clean up. SIGXFSZ becomes nothing: a file that may not grow
/// any more (RLIMIT_FSIZE) is a write that fails with EFBIG.
/// </summary>
internal sealed class Interruption : IDisposable
{
    private const PosixSignal SigXFileSize = (PosixSignal)25; // SIGXFSZ; the runtime has no name for it

    private readonly CancellationTokenSource _source;
    private readonly PosixSignalRegistration[] _signals;

    public Interruption(CancellationToken outer)
    {
        _source = CancellationTokenSource.CreateLinkedTokenSource(outer);
        _signals =
        [
            PosixSignalRegistration.Create(PosixSignal.SIGINT, Handle),
            PosixSignalRegistration.Create(PosixSignal.SIGTERM, Handle),
            PosixSignalRegistration.Create(PosixSignal.SIGHUP, Handle),
            PosixSignalRegistration.Create(SigXFileSize, static signal => signal.Cancel = true),
        ];
    }

    public CancellationToken Token => _source.Token;

    public void Dispose()
    {
        foreach (PosixSignalRegistration signal in _signals)
        {
            signal.Dispose();
        }

        _source.Dispose();
    }

    private void Handle(PosixSignalContext signal)
    {
        // Without Cancel the runtime goes on to end the process.
        if (!_source.IsCancellationRequested)
        {
            signal.Cancel = true;
            _source.Cancel();
        }
    }
}
