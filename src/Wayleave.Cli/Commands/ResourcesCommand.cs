using System.CommandLine;
using System.CommandLine.Parsing;
using System.Text.Json;
using Wayleave.Cli.Output;
using Wayleave.Host;
using Wayleave.Host.Control;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave resources</c>: who offers memory to peers and who has it; <c>add</c> borrows a range by a handle for as
/// long as it runs, <c>remove</c> takes one away with its users inside.
/// </summary>
internal static class ResourcesCommand
{
    private static readonly TimeSpan s_timeoutMax = TimeSpan.FromHours(1);

    public static Command Create()
    {
        Argument<WlUrl?> url = Parsing.OptionalUrl("wl://HOST, or wl://HOST/DEVICE for one; default: the host here");
        Command command = new("resources", "Show who offers memory to peers, and who has it by which handle")
        {
            url,
            CreateAdd(),
            CreateRemove(),
        };
        command.AddClientOptions();
        command.SetAction(async (parsed, cancellation) =>
        {
            using ControlClient client = parsed.OpenClient(parsed.GetValue(url));
            ResourcesDocument all = await client.GetResourcesAsync(cancellation).ConfigureAwait(false);
            Print(new CommandContext(parsed), Select(all, parsed.GetValue(url)));
            return ExitCode.Done;
        });
        return command;
    }

    private static Command CreateAdd()
    {
        Argument<string> name = new("NAME") { Description = "DEVICE/NAME, or NAME with --near" };
        Argument<long> size = new("SIZE")
        {
            Description = "How much, such as 16MiB",
            CustomParser = result => ReadSize(result, result.Tokens[0].Value),
        };
        Argument<WlUrl?> url = Parsing.OptionalUrl("wl://HOST; default: the host that runs here");
        Option<string[]> near = new("--near")
        {
            Description = "A device that is to reach it; the nearest published memory is taken. May be repeated",
            HelpName = "DEVICE",
        };
        Option<ResourceImportDocument[]> imports = new("--import")
        {
            Description = "A NIC that imports it, and how much it takes. May be repeated",
            HelpName = "NIC=SIZE",
            CustomParser = ReadImports,
        };
        Command command = new("add", "Borrow a range of a device's memory by a handle, until interrupted")
        {
            name,
            size,
            url,
            near,
            imports,
        };
        command.AddClientOptions();
        command.SetAction(async (parsed, cancellation) =>
        {
            (string? device, string resource) = Split(parsed.GetRequiredValue(name));
            string[] wanted = parsed.GetValue(near) ?? [];
            if (device is null == (wanted.Length == 0))
            {
                throw new UsageException($"{parsed.GetValue(name)}: give a device, as gpu0/ring, or --near, not both");
            }

            AddResourceDocument add = new()
            {
                Device = device,
                Near = wanted,
                Name = resource,
                SizeBytes = (ulong)parsed.GetValue(size),
                Imports = parsed.GetValue(imports) ?? [],
            };
            CommandContext context = new(parsed);
            using ControlClient client = parsed.OpenClient(parsed.GetValue(url));
            HeldResource held = await client
                .AddResourceAsync(add, line => Print(context, line), cancellation).ConfigureAwait(false);
            await using (held.ConfigureAwait(false))
            {
                await held.Completion.WaitAsync(cancellation).ConfigureAwait(false);
            }

            return ExitCode.Done;
        });
        return command;
    }

    private static Command CreateRemove()
    {
        Argument<string> name = new("DEVICE/NAME") { Description = "A resource" };
        Argument<WlUrl?> url = Parsing.OptionalUrl("wl://HOST; default: the host that runs here");
        Option<TimeSpan?> timeout = Parsing.DurationOption("--timeout", "How long to wait for the proof (default 5s)");
        Option<bool> explain = new("--explain") { Description = "Tell what happened, step by step" };
        Command command = new("remove", "Take a resource from everyone who uses it, and prove it")
        {
            name,
            url,
            timeout,
            explain,
        };
        command.AddClientOptions();
        command.SetAction(async (parsed, cancellation) =>
        {
            (string? device, string resource) = Split(parsed.GetRequiredValue(name));
            if (device is null)
            {
                throw new UsageException($"{resource}: say on which device, as in gpu0/{resource}");
            }

            RemoveResourceDocument remove = new();
            if (parsed.GetValue(timeout) is { } limit)
            {
                remove = limit <= s_timeoutMax
                    ? remove with { TimeoutMs = (int)Math.Ceiling(limit.TotalMilliseconds) }
                    : throw new UsageException($"--timeout: at most {Durations.Format(s_timeoutMax)}");
            }

            using ControlClient client = parsed.OpenClient(parsed.GetValue(url));
            ProofDocument proof = await client
                .RemoveResourceAsync(device, resource, remove, cancellation).ConfigureAwait(false);
            Print(new CommandContext(parsed), $"{device}/{resource}", proof, parsed.GetValue(explain));
            return proof.Sufficient ? ExitCode.Done : ExitCode.Failed;
        });
        return command;
    }

    private static (string? Device, string Name) Split(string text) =>
        text.Split('/', 2) is [{ } device, { } name] ? (device, name) : (null, text);

    private static long ReadSize(ArgumentResult result, string text)
    {
        if (!ByteSize.TryParse(text, out long bytes) || bytes <= 0)
        {
            result.AddError($"'{text}' is not {ByteSize.Forms}");
        }

        return bytes;
    }

    private static ResourceImportDocument[] ReadImports(ArgumentResult result)
    {
        List<ResourceImportDocument> imports = [];
        foreach (Token token in result.Tokens)
        {
            if (token.Value.Split('=', 2) is not [{ Length: > 0 } nic, { } size])
            {
                result.AddError($"--import: '{token.Value}' is not NIC=SIZE, as in rdma0=4MiB");
                break;
            }

            imports.Add(new ResourceImportDocument(nic, (ulong)ReadSize(result, size)));
        }

        return [.. imports];
    }

    private static ResourcesDocument Select(ResourcesDocument all, WlUrl? url)
    {
        if (url?.Device is not { } device)
        {
            return all;
        }

        ProviderDocument[] selected = [.. all.Providers.Where(p => p.Device == device)];
        return selected.Length > 0 && url.Name is null
            ? all with { Providers = selected }
            : throw new WayleaveException(
                Core.Errno.ENODEV,
                url.ToString(),
                "it offers no memory to peers",
                $"these do: {string.Join(", ", all.Providers.Select(p => p.Device))}");
    }

    private static void Print(CommandContext context, ResourcesDocument all)
    {
        if (context.IsJson)
        {
            context.WriteJson(all, ControlJson.Default.ResourcesDocument);
            return;
        }

        foreach (ProviderDocument provider in all.Providers)
        {
            string what = provider switch
            {
                { Pool: { } pool } => $"pool of {ByteSize.Format(pool.SizeBytes)}, "
                    + $"{ByteSize.Format(pool.AvailableBytes)} free{(pool.Published ? ", published" : "")}",
                { Lends: true } => "lent by its own allocator",
                _ => "nothing is lent by handle",
            };
            context.Out.WriteLine($"{provider.Device} {provider.PciAddress}: {what}");
            foreach (ResourceDocument resource in provider.Resources)
            {
                context.Out.WriteLine($"  {Describe(resource)}");
                WriteUsers(context.Out, resource);
            }
        }
    }

    private static void Print(CommandContext context, ResourceEventDocument line)
    {
        if (context.IsJson)
        {
            context.Out.WriteLine(JsonSerializer.Serialize(line, ControlJson.Default.ResourceEventDocument));
            context.Out.Flush();
            return;
        }

        if (line is { Event: ResourceEventKind.Added, Resource: { } added })
        {
            context.Out.WriteLine($"{added.Device}/{Describe(added)}");
            WriteUsers(context.Out, added);
        }
        else if (line is { Event: ResourceEventKind.Removed, Resource: { Proof: { } proof } removed })
        {
            context.Out.WriteLine($"{removed.Device}/{removed.Name}: {proof.Reason}: {proof.Grade}");
        }

        context.Out.Flush();
    }

    private static void Print(CommandContext context, string name, ProofDocument proof, bool isExplained)
    {
        if (context.IsJson)
        {
            context.WriteJson(proof, ControlJson.Default.ProofDocument);
        }
        else if (isExplained)
        {
            ProofStory.Write(proof, context.Out);
        }
        else
        {
            string duration = Durations.Format(TimeSpan.FromMicroseconds(proof.DurationUs));
            string importers = proof.Importers.Count == 1 ? "1 importer" : $"{proof.Importers.Count} importers";
            context.Out.WriteLine($"{name}: {proof.Grade} in {duration}, {importers}");
        }

        if (!proof.Sufficient)
        {
            context.Error.WriteLine(
                $"wayleave: remove {name}: only {proof.Grade}, {proof.RequiredGrade} is needed; "
                + "the memory stays in quarantine until its users stop");
        }
    }

    private static string Describe(ResourceDocument resource) =>
        $"{resource.Name}: {ByteSize.Format(resource.SizeBytes)}, {ByteSize.Format(resource.AvailableBytes)} free, "
        + JsonNamingPolicy.SnakeCaseLower.ConvertName(resource.State.ToString());

    private static void WriteUsers(TextWriter output, ResourceDocument resource)
    {
        foreach (string holder in resource.Handles)
        {
            output.WriteLine($"    handle of {holder}");
        }

        foreach (ResourceUserDocument user in resource.Users)
        {
            string taken = user.Chunks == 0
                ? "the whole"
                : $"{ByteSize.Format(user.ChunkBytes)} in {user.Chunks} chunk{(user.Chunks == 1 ? "" : "s")}";
            output.WriteLine($"    {user.Name} for {user.Holder}: {taken}, "
                + $"{JsonNamingPolicy.SnakeCaseLower.ConvertName(user.Kind.ToString())}, "
                + JsonNamingPolicy.SnakeCaseLower.ConvertName(user.State.ToString()));
        }
    }
}
