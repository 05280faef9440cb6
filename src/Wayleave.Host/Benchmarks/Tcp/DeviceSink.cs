using Wayleave.Core;
using Wayleave.Devices.Ethernet;

namespace Wayleave.Host.Benchmarks.Tcp;

/// <summary>
/// A reader that looks at nothing: it takes pieces of device memory, keeps some, and gives the oldest back. Polls.
/// </summary>
internal sealed class DeviceSink(IperfStream stream, long holdBytes)
{
    private readonly byte[] _linear = new byte[64 << 10];
    private readonly DevmemFragment[] _fragments = new DevmemFragment[TokenRange.RangesMax];
    private readonly TokenRange[] _back = new TokenRange[TokenRange.RangesMax];
    private readonly Queue<(uint Token, uint Bytes)> _held = new();
    private long _heldBytes;
    private long _staged;

    /// <summary>Receives until all has come.</summary>
    /// <returns>Bytes that were copied to host memory.</returns>
    public long Receive()
    {
        while (!stream.Complete.IsCancellationRequested)
        {
            Errno errno = stream.Connection.TryRead(_linear, _fragments, out ReceiveResult result);
            if (errno == Errno.EAGAIN)
            {
                stream.Connection.Nic.Driver.TryProgress();
                continue;
            }

            errno.ThrowIfFailed("receive a stream of iperf3");
            if (result.Bytes == 0)
            {
                break;
            }

            foreach (ref readonly DevmemFragment fragment in _fragments.AsSpan(0, result.Fragments))
            {
                if (fragment.Token != 0)
                {
                    _held.Enqueue((fragment.Token, fragment.LengthBytes));
                    _heldBytes += fragment.LengthBytes;
                }
            }

            _staged += result.LinearBytes;
            GiveBack();
            stream.Count(result.Bytes);
        }

        return _staged;
    }

    private void GiveBack()
    {
        int count = 0;
        while (_heldBytes > holdBytes && count < _back.Length && _held.TryDequeue(out (uint Token, uint Bytes) oldest))
        {
            _heldBytes -= oldest.Bytes;
            _back[count++] = new TokenRange(oldest.Token, 1);
        }

        if (count > 0)
        {
            stream.Connection.ReturnTokens(_back.AsSpan(0, count));
        }
    }
}
