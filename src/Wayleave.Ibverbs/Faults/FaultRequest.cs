using System.Globalization;
using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Ibverbs.Faults;

/// <summary>
/// What <c>wayleave fault PID SPEC</c> asks for: things that happen once, now, and faults that stay until they are
/// changed. Read whole before anything happens.
/// </summary>
internal sealed class FaultRequest
{
    /// <summary>What happens once.</summary>
    public const string Forms = "rnr, rnr=MESSAGES, qp-error, qp-error=QP, revoke=KEY";

    private readonly List<Action<VerbsDevice>> _once = [];
    private FaultOptions? _lasting;
    private int _revoked;
    private int _failed;
    private uint? _wantedKey;
    private uint? _wantedPair;

    /// <summary>Reads a request; words are separated by commas.</summary>
    /// <returns>What is wrong with it, or null.</returns>
    public static string? TryParse(string text, out FaultRequest request)
    {
        request = new FaultRequest();
        List<string> rest = [];
        foreach (string word in text.Split(','))
        {
            if (!request.TryAddOnce(word))
            {
                rest.Add(word);
            }
        }

        if (rest.Count == 0)
        {
            return null;
        }

        bool isRead = FaultOptions.TryParse(string.Join(',', rest), out FaultOptions faults, out string problem);
        request._lasting = faults;
        return isRead ? null : $"{problem}; or, once: {Forms}";
    }

    /// <summary>Does it to every device that has its port.</summary>
    /// <returns>What has happened, or what there was none of.</returns>
    public (bool Happened, string Words) Apply(IReadOnlyList<VerbsDevice> devices)
    {
        foreach (VerbsDevice device in devices)
        {
            if (_lasting is not null)
            {
                device.WithToken(() => device.Machine.Port.ChangeFaults(_lasting));
            }

            _once.ForEach(act => act(device));
        }

        if (_wantedKey is { } key && _revoked == 0)
        {
            return (false, string.Create(CultureInfo.InvariantCulture, $"no region has the key 0x{key:x8}"));
        }

        if (_wantedPair is { } number && _failed == 0)
        {
            return (false, string.Create(CultureInfo.InvariantCulture, $"no queue pair has the number 0x{number:x}"));
        }

        List<string> done = [];
        if (_lasting is not null)
        {
            done.Add($"faults {_lasting.ToText()}");
        }

        if (_failed > 0)
        {
            done.Add(string.Create(CultureInfo.InvariantCulture, $"{_failed} queue pairs in ERR"));
        }

        if (_revoked > 0)
        {
            done.Add(string.Create(CultureInfo.InvariantCulture, $"{_revoked} keys dead"));
        }

        return (true, done.Count == 0 ? "done" : string.Join(", ", done));
    }

    private bool TryAddOnce(string word)
    {
        int sign = word.IndexOf('=', StringComparison.Ordinal);
        string name = sign < 0 ? word : word[..sign];
        string value = sign < 0 ? "" : word[(sign + 1)..];
        switch (name)
        {
            case "rnr" when sign < 0:
                _once.Add(d => Refuse(d, 1));
                return true;
            case "rnr" when TryReadNumber(value, out uint messages) && messages <= 1 << 20:
                _once.Add(d => Refuse(d, (int)messages));
                return true;
            case "qp-error" when sign < 0:
                _once.Add(d => Fail(d, null));
                return true;
            case "qp-error" when TryReadNumber(value, out uint number):
                _wantedPair = number;
                _once.Add(d => Fail(d, number));
                return true;
            case "revoke" when TryReadNumber(value, out uint key):
                _wantedKey = key;
                _once.Add(d => Revoke(d, key));
                return true;
            default:
                return false;
        }
    }

    private static void Refuse(VerbsDevice device, int messages) =>
        device.WithToken(() => device.Machine.Port.RefuseNext(messages));

    // As a device that has found its queue pair broken: ERR, everything flushed, and IBV_EVENT_QP_FATAL.
    private void Fail(VerbsDevice device, uint? number) => device.WithToken(() =>
    {
        foreach (VerbsQueuePair pair in device.QueuePairs.ToArray())
        {
            bool isMeant = number is null ? pair.Pair.State > QueuePairState.Init : pair.Pair.QpNumber == number;
            if (isMeant && pair.Pair.State != QueuePairState.Error)
            {
                QueuePairAttributes error = new() { State = QueuePairState.Error };
                if (pair.Pair.Modify(error, QueuePairAttributeMask.State) == Errno.Success)
                {
                    pair.Context.Raise(AsyncEventType.QueuePairFatal, pair.Structure);
                    _failed++;
                }
            }
        }
    });

    private void Revoke(VerbsDevice device, uint key)
    {
        if (device.Memory.TryRevoke(key))
        {
            device.CountRevoke();
            device.WithToken(static () => { }); // a turn that notices
            _revoked++;
        }
    }

    // 0x12, or 18; the numbers that programs print are of either kind.
    private static bool TryReadNumber(string text, out uint number) =>
        text.StartsWith("0x", StringComparison.OrdinalIgnoreCase)
            ? uint.TryParse(text.AsSpan(2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out number)
            : uint.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out number);
}
